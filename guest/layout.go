package guest

import (
	"errors"
	"fmt"
)

// ErrLayout is wrapped by every error about RAM blocks that cannot be.
var ErrLayout = errors.New("guest: bad memory layout")

const (
	// DefaultPageSize is the target page size of x86, in bytes.
	DefaultPageSize = 4096
	// MinPageSize and MaxPageSize bound the target page sizes that are taken.
	MinPageSize, MaxPageSize = 1024, 64 << 10
	// MaxBlocks bounds the RAM blocks of one machine.
	MaxBlocks = 4096
	// MaxMemory bounds the bytes of all RAM blocks of one machine together: what a
	// layout can say. How much a peer may claim is bounded where its stream is read.
	MaxMemory = 1 << 47
	// MaxNameLen is the longest block name that the wire can say.
	MaxNameLen = 255
)

// Block is one RAM block: a piece of guest memory with a name that source and
// destination agree on, such as "pc.ram".
type Block struct {
	Name string
	// Length is the used length in bytes, a multiple of the page size.
	Length uint64
	// HugePage is the size in bytes of the pages that back the block, where
	// the stream names it, else 0.
	HugePage uint64
	// Index is the block's place in its layout.
	Index int
}

// Layout is the RAM blocks of a machine in the order of the wire. It does not
// change once it is made.
type Layout struct {
	// PageSize is the target page size in bytes: the unit of transfer.
	PageSize int
	Blocks   []*Block
	byName   map[string]*Block
}

// NewLayout checks the blocks and returns a layout that holds copies of them.
func NewLayout(pageSize int, blocks []Block) (*Layout, error) {
	if pageSize < MinPageSize || pageSize > MaxPageSize || pageSize&(pageSize-1) != 0 {
		return nil, fmt.Errorf("%w: page size %d (want a power of two from %d to %d)", ErrLayout, pageSize, MinPageSize, MaxPageSize)
	}
	if len(blocks) == 0 || len(blocks) > MaxBlocks {
		return nil, fmt.Errorf("%w: %d RAM blocks (want 1 to %d)", ErrLayout, len(blocks), MaxBlocks)
	}
	l := &Layout{PageSize: pageSize, byName: make(map[string]*Block, len(blocks))}
	var total uint64
	for i, b := range blocks {
		switch {
		case b.Name == "" || len(b.Name) > MaxNameLen:
			return nil, fmt.Errorf("%w: RAM block %d has a name of %d bytes (want 1 to %d)", ErrLayout, i, len(b.Name), MaxNameLen)
		case l.byName[b.Name] != nil:
			return nil, fmt.Errorf("%w: RAM block %q is named twice", ErrLayout, b.Name)
		case b.Length == 0 || b.Length%uint64(pageSize) != 0:
			return nil, fmt.Errorf("%w: RAM block %q has %d bytes (want a multiple of the page size %d)", ErrLayout, b.Name, b.Length, pageSize)
		case b.Length > MaxMemory-total:
			return nil, fmt.Errorf("%w: RAM block %q of %d bytes takes the machine over %d bytes", ErrLayout, b.Name, b.Length, uint64(MaxMemory))
		}
		total += b.Length
		b.Index = i
		l.Blocks = append(l.Blocks, &b)
		l.byName[b.Name] = &b
	}
	return l, nil
}

// Lookup returns the block of that name, or nil. It does not allocate.
func (l *Layout) Lookup(name []byte) *Block { return l.byName[string(name)] }

// Block returns the block of that name, or nil.
func (l *Layout) Block(name string) *Block { return l.byName[name] }

// Size returns the bytes of all blocks together.
func (l *Layout) Size() uint64 {
	var n uint64
	for _, b := range l.Blocks {
		n += b.Length
	}
	return n
}

// Largest returns the block with the most bytes: the machine's main memory.
func (l *Layout) Largest() *Block {
	largest := l.Blocks[0]
	for _, b := range l.Blocks[1:] {
		if b.Length > largest.Length {
			largest = b
		}
	}
	return largest
}

// Pages returns how many target pages b has.
func (l *Layout) Pages(b *Block) uint64 { return b.Length / uint64(l.PageSize) }

// CheckOffset says whether offset is the start of a page of b.
func (l *Layout) CheckOffset(b *Block, offset uint64) error {
	if offset&uint64(l.PageSize-1) != 0 {
		return fmt.Errorf("%w: offset %#x in RAM block %q is not a multiple of the page size %d", ErrLayout, offset, b.Name, l.PageSize)
	}
	if offset >= b.Length {
		return fmt.Errorf("%w: offset %#x is beyond the %#x bytes of RAM block %q", ErrLayout, offset, b.Length, b.Name)
	}
	return nil
}

// PacketBytes is the page data that a full multifd packet, and so a batch and
// an extent of a snapshot, holds.
const PacketBytes = 512 << 10

// PacketPages returns how many pages a full packet holds: 128 of 4 KiB.
func (l *Layout) PacketPages() int { return PacketPages(l.PageSize) }

// PacketPages returns how many pages of that size a full packet holds.
func PacketPages(pageSize int) int { return PacketBytes / pageSize }
