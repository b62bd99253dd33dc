package guest

import (
	"errors"
	"fmt"
)

// ErrLayout is wrapped by every error about invalid RAM blocks, offsets or bitmaps.
var ErrLayout = errors.New("guest: bad memory layout")

const (
	// DefaultPageSize is the target page size of x86, in bytes.
	DefaultPageSize = 4096
	// MinPageSize and MaxPageSize are the smallest and the largest target page
	// size that a layout accepts, in bytes.
	MinPageSize, MaxPageSize = 1024, 64 << 10
	// MaxBlocks is the largest number of RAM blocks of one machine.
	MaxBlocks = 4096
	// MaxMemory is the largest total size of the RAM blocks of one machine, in
	// bytes. The reader of a peer's stream applies a lower limit of its own.
	MaxMemory = 1 << 47
	// MaxNameLen is the largest length of a block name on the wire, in bytes.
	MaxNameLen = 255
)

// Block is one RAM block: a contiguous range of guest memory with a name that
// source and destination share, such as "pc.ram".
type Block struct {
	// Name has 1 to MaxNameLen bytes, and is unique in its layout.
	Name string
	// Length is the used length in bytes, a multiple of the page size.
	Length uint64
	// HugePage is the size in bytes of the pages that back the block, or 0 if
	// the stream does not name it.
	HugePage uint64
	// Index is the index of the block in Layout.Blocks.
	Index int
}

// Layout describes the RAM blocks of a machine, in the order of the wire. A layout
// is immutable, so several goroutines may use it.
type Layout struct {
	// PageSize is the target page size in bytes: the unit of transfer.
	PageSize int
	Blocks   []*Block
	byName   map[string]*Block
}

// NewLayout checks the blocks and returns a layout of copies of them, with Index
// set. pageSize is in bytes, a power of two. The errors wrap ErrLayout.
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
			return nil, fmt.Errorf("%w: the name of RAM block %q is used twice", ErrLayout, b.Name)
		case b.Length == 0 || b.Length%uint64(pageSize) != 0:
			return nil, fmt.Errorf("%w: RAM block %q has %d bytes (want a multiple of the page size %d)", ErrLayout, b.Name, b.Length, pageSize)
		case b.Length > MaxMemory-total:
			return nil, fmt.Errorf("%w: RAM block %q of %d bytes makes the machine larger than %d bytes", ErrLayout, b.Name, b.Length, uint64(MaxMemory))
		}
		total += b.Length
		b.Index = i
		l.Blocks = append(l.Blocks, &b)
		l.byName[b.Name] = &b
	}
	return l, nil
}

// Lookup returns the block with the given name, or nil. It does not allocate.
func (l *Layout) Lookup(name []byte) *Block { return l.byName[string(name)] }

// Block returns the block with the given name, or nil.
func (l *Layout) Block(name string) *Block { return l.byName[name] }

// Size returns the total size of all blocks in bytes.
func (l *Layout) Size() uint64 {
	var n uint64
	for _, b := range l.Blocks {
		n += b.Length
	}
	return n
}

// Largest returns the largest block, which is the main memory of a machine.
func (l *Layout) Largest() *Block {
	largest := l.Blocks[0]
	for _, b := range l.Blocks[1:] {
		if b.Length > largest.Length {
			largest = b
		}
	}
	return largest
}

// Pages returns the number of target pages of b.
func (l *Layout) Pages(b *Block) uint64 { return b.Length / uint64(l.PageSize) }

// CheckOffset returns an error that wraps ErrLayout if offset is not the start of a
// page of b.
func (l *Layout) CheckOffset(b *Block, offset uint64) error {
	if offset&uint64(l.PageSize-1) != 0 {
		return fmt.Errorf("%w: offset %#x in RAM block %q is not a multiple of the page size %d", ErrLayout, offset, b.Name, l.PageSize)
	}
	if offset >= b.Length {
		return fmt.Errorf("%w: offset %#x is beyond the %#x bytes of RAM block %q", ErrLayout, offset, b.Length, b.Name)
	}
	return nil
}

// PacketBytes is the size in bytes of the page data of a full multifd packet. A
// full batch and a full extent of a snapshot have the same size. QEMU defines it
// (MULTIFD_PACKET_SIZE).
const PacketBytes = 512 << 10

// PacketPages returns the number of pages of a full packet: 128 of 4 KiB.
func (l *Layout) PacketPages() int { return PacketPages(l.PageSize) }

// PacketPages returns the number of pages of a full packet for a page size in bytes.
func PacketPages(pageSize int) int { return PacketBytes / pageSize }
