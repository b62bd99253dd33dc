package guest

import (
	"context"
	"fmt"
	"io"
	"math/bits"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/deflate"
)

// Memory is guest memory in this process: a sink that pages are put straight
// into, and a source that yields slices of itself.
type Memory struct {
	// Map, if it is set before Setup, gives the memory of a block, zeroed: of
	// huge pages, say, or shared with another process. It stays its owner's
	// to free.
	Map func(*Block) ([]byte, error)

	layout *Layout
	blocks []memoryBlock
	mapped bool
}

type memoryBlock struct {
	mem []byte
	// received has a bit for every page that was written. A zero page whose
	// bit is clear is fresh: it is not touched, and so costs no page fault.
	received []atomic.Uint64
}

// NewMemory maps zeroed memory for every block of the layout. Pages are given
// by the kernel when they are first written. Close unmaps it.
func NewMemory(l *Layout) (*Memory, error) {
	m := new(Memory)
	if err := m.Setup(l); err != nil {
		return nil, err
	}
	return m, nil
}

// Setup maps the layout's memory. A Memory made by new(Memory) is thus a sink
// whose size the stream decides.
func (m *Memory) Setup(l *Layout) error {
	if m.layout != nil {
		return fmt.Errorf("%w: this memory has its blocks already", ErrLayout)
	}
	blocks := make([]memoryBlock, 0, len(l.Blocks))
	for _, b := range l.Blocks {
		if b.Length > 1<<62 {
			return fmt.Errorf("%w: RAM block %q is too large to map", ErrLayout, b.Name)
		}
		mem, err := m.mapBlock(b)
		if err != nil {
			if m.Map == nil {
				unmap(blocks)
			}
			return fmt.Errorf("guest: mapping %d bytes for RAM block %q: %w", b.Length, b.Name, err)
		}
		blocks = append(blocks, memoryBlock{mem: mem, received: make([]atomic.Uint64, (l.Pages(b)+63)/64)})
	}
	m.layout, m.blocks, m.mapped = l, blocks, m.Map == nil
	return nil
}

func (m *Memory) mapBlock(b *Block) ([]byte, error) {
	if m.Map == nil {
		return unix.Mmap(-1, 0, int(b.Length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	}
	mem, err := m.Map(b)
	if err == nil && uint64(len(mem)) != b.Length {
		err = fmt.Errorf("%w: Map gave %d bytes", ErrLayout, len(mem))
	}
	return mem, err
}

// Attach makes memory that the caller owns, one slice a block, a Memory. Its
// pages are taken to hold something: a zero page that arrives is written.
func Attach(l *Layout, mem [][]byte) (*Memory, error) {
	if len(mem) != len(l.Blocks) {
		return nil, fmt.Errorf("%w: %d slices for %d RAM blocks", ErrLayout, len(mem), len(l.Blocks))
	}
	m := &Memory{layout: l}
	for i, b := range l.Blocks {
		if uint64(len(mem[i])) != b.Length {
			return nil, fmt.Errorf("%w: %d bytes of memory for RAM block %q of %d", ErrLayout, len(mem[i]), b.Name, b.Length)
		}
		received := make([]atomic.Uint64, (l.Pages(b)+63)/64)
		for j := range received {
			received[j].Store(^uint64(0))
		}
		m.blocks = append(m.blocks, memoryBlock{mem: mem[i], received: received})
	}
	return m, nil
}

// Layout returns the memory's blocks, nil before Setup.
func (m *Memory) Layout() *Layout { return m.layout }

// Bytes returns the memory of b itself.
func (m *Memory) Bytes(b *Block) []byte { return m.blocks[b.Index].mem }

// Received reports whether the page at offset of b was written by a lane.
func (m *Memory) Received(b *Block, offset uint64) bool {
	page := offset / uint64(m.layout.PageSize)
	return m.blocks[b.Index].received[page/64].Load()&(1<<(page%64)) != 0
}

// Close unmaps the memory if NewMemory or Setup mapped it. Nothing may use it
// any more.
func (m *Memory) Close() error {
	if m.mapped {
		m.mapped = false
		return unmap(m.blocks)
	}
	return nil
}

func unmap(blocks []memoryBlock) error {
	var first error
	for i := range blocks {
		if err := unix.Munmap(blocks[i].mem); err != nil && first == nil {
			first = fmt.Errorf("guest: unmapping memory: %w", err)
		}
		blocks[i].mem = nil
	}
	return first
}

// Lane opens a way into the memory for one goroutine.
func (m *Memory) Lane() (Lane, error) {
	if m.layout == nil {
		return nil, fmt.Errorf("%w: no blocks set up yet", ErrLayout)
	}
	return &memoryLane{m: m}, nil
}

type memoryLane struct {
	m     *Memory
	pages [][]byte
}

func (l *memoryLane) Pages(b *Block, offsets []uint64) ([][]byte, error) {
	mb, size := &l.m.blocks[b.Index], uint64(l.m.layout.PageSize)
	l.pages = l.pages[:0]
	for _, off := range offsets {
		if err := l.m.layout.CheckOffset(b, off); err != nil {
			return nil, err
		}
		page := off / size
		mb.received[page/64].Or(1 << (page % 64))
		l.pages = append(l.pages, mb.mem[off:off+size:off+size])
	}
	return l.pages, nil
}

func (l *memoryLane) Commit() error { return nil }

func (l *memoryLane) Zero(b *Block, offsets []uint64) error {
	mb, size := &l.m.blocks[b.Index], uint64(l.m.layout.PageSize)
	for _, off := range offsets {
		if err := l.m.layout.CheckOffset(b, off); err != nil {
			return err
		}
		page := off / size
		if mb.received[page/64].Load()&(1<<(page%64)) == 0 {
			continue
		}
		// Reading before writing keeps a page that is zero already clean.
		if p := mb.mem[off : off+size]; !deflate.IsZero(p) {
			clear(p)
		}
	}
	return nil
}

func (l *memoryLane) Close() error { return nil }

// Stable says that pages are guest memory itself, which stays.
func (l *memoryLane) Stable() bool { return true }

// All returns a source of every page of the memory.
func (m *Memory) All() Source { return &memorySource{m: m} }

// Dirty returns a source of the pages whose bit is set: dirty[i] is the bitmap
// of block i, bit j of word k for page 64k+j.
func (m *Memory) Dirty(dirty [][]uint64) (Source, error) {
	if len(dirty) != len(m.blocks) {
		return nil, fmt.Errorf("%w: %d dirty bitmaps for %d RAM blocks", ErrLayout, len(dirty), len(m.blocks))
	}
	for i, b := range m.layout.Blocks {
		if uint64(len(dirty[i])) != (m.layout.Pages(b)+63)/64 {
			return nil, fmt.Errorf("%w: a dirty bitmap of %d words for RAM block %q of %d pages", ErrLayout, len(dirty[i]), b.Name, m.layout.Pages(b))
		}
	}
	return &memorySource{m: m, dirty: dirty}, nil
}

// memorySource hands out runs of a packet's worth of pages by one shared
// cursor over all blocks.
type memorySource struct {
	m      *Memory
	dirty  [][]uint64
	cursor atomic.Uint64 // in runs, over the blocks end to end
}

func (s *memorySource) Layout() *Layout { return s.m.layout }

func (s *memorySource) Next(ctx context.Context, b *Batch) error {
	run := uint64(s.m.layout.PacketPages())
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := s.cursor.Add(1) - 1
		b.Reset()
		for _, block := range s.m.layout.Blocks {
			pages := s.m.layout.Pages(block)
			runs := (pages + run - 1) / run
			if n < runs {
				b.Block = block
				s.fill(b, n*run, min(pages, (n+1)*run))
				break
			}
			n -= runs
		}
		if b.Block == nil {
			return io.EOF
		}
		if len(b.Normal)+len(b.Zero) > 0 {
			return nil
		}
	}
}

// fill puts pages from first up to end of b's block into b, the dirty ones
// where there is a bitmap.
func (s *memorySource) fill(b *Batch, first, end uint64) {
	size := uint64(s.m.layout.PageSize)
	mem := s.m.blocks[b.Block.Index].mem
	add := func(page uint64) {
		p := mem[page*size : (page+1)*size]
		if deflate.IsZero(p) {
			b.Zero = append(b.Zero, page*size)
			return
		}
		b.Normal = append(b.Normal, page*size)
		b.Data = append(b.Data, p)
	}
	if s.dirty == nil {
		for page := first; page < end; page++ {
			add(page)
		}
		return
	}
	words := s.dirty[b.Block.Index]
	for page := first; page < end; {
		word := words[page/64] >> (page % 64)
		if word == 0 {
			page = (page/64 + 1) * 64
			continue
		}
		page += uint64(bits.TrailingZeros64(word))
		if page < end {
			add(page)
		}
		page++
	}
}
