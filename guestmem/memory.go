package guestmem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
)

// Memory is guest memory in this process: a sink that pages are put straight
// into, and a source that yields slices of itself.
//
// Each block has a bitmap of the pages that were received. A page with data
// costs the one page fault of its first write, or none if it is there already
// (see Options). A zero page whose bit is clear is fresh, and is neither
// read nor written: it costs none. The bitmap knows what came by lanes. Whoever
// writes to the memory by another way (Bytes, File) before a migration has
// ended keeps what he wrote where a zero page comes.
type Memory struct {
	// Options say how Setup maps the blocks.
	Options Options
	// Map, if it is set before Setup, gives the memory of a block, zeroed. It
	// stays its owner's to free.
	Map func(*guest.Block) ([]byte, error)

	layout *guest.Layout
	blocks []memoryBlock
}

type memoryBlock struct {
	mem     []byte
	mapping mapping // what Setup mapped, if it did
	faults  bool    // a page that was not received may not be present
	// received has a bit for every page that was written, named for every page
	// that a lane was told of, be it as zero.
	received, named []atomic.Uint64
}

// New maps zeroed memory for every block of the layout, as the zero value
// of Options says. Close unmaps it.
func New(l *guest.Layout) (*Memory, error) { return NewWith(l, Options{}) }

// NewWith maps memory in the way that opts say.
func NewWith(l *guest.Layout, opts Options) (*Memory, error) {
	m := &Memory{Options: opts}
	if err := m.Setup(l); err != nil {
		return nil, err
	}
	return m, nil
}

// Setup maps the layout's memory. A Memory made by new(Memory) is thus a sink
// whose size the stream decides.
func (m *Memory) Setup(l *guest.Layout) error {
	if m.layout != nil {
		return fmt.Errorf("%w: this memory has its blocks already", guest.ErrLayout)
	}
	blocks := make([]memoryBlock, 0, len(l.Blocks))
	for _, b := range l.Blocks {
		mb, err := m.mapBlock(b, l.PageSize)
		if err != nil {
			unmap(blocks)
			return fmt.Errorf("guestmem: mapping %d bytes for RAM block %q: %w", b.Length, b.Name, err)
		}
		words := (l.Pages(b) + 63) / 64
		mb.received, mb.named = make([]atomic.Uint64, words), make([]atomic.Uint64, words)
		blocks = append(blocks, mb)
	}
	m.layout, m.blocks = l, blocks
	return nil
}

func (m *Memory) mapBlock(b *guest.Block, pageSize int) (memoryBlock, error) {
	if m.Map == nil {
		mapped, err := mapMemory(b.Name, b.Length, &m.Options)
		if err != nil {
			return memoryBlock{}, err
		}
		small := m.Options.Pages != HugeTLB && (m.Options.Prealloc == "" || m.Options.Prealloc == PreallocNone)
		whole := pageSize%os.Getpagesize() == 0
		return memoryBlock{mem: mapped.mem[:b.Length:b.Length], mapping: mapped, faults: small && whole}, nil
	}
	mem, err := m.Map(b)
	if err == nil && uint64(len(mem)) != b.Length {
		err = fmt.Errorf("%w: Map gave %d bytes", guest.ErrLayout, len(mem))
	}
	return memoryBlock{mem: mem}, err
}

// Attach makes memory that the caller owns, one slice a block, a Memory. Its
// pages are taken to hold something: a zero page that arrives is written.
func Attach(l *guest.Layout, mem [][]byte) (*Memory, error) {
	if len(mem) != len(l.Blocks) {
		return nil, fmt.Errorf("%w: %d slices for %d RAM blocks", guest.ErrLayout, len(mem), len(l.Blocks))
	}
	m := &Memory{layout: l}
	for i, b := range l.Blocks {
		if uint64(len(mem[i])) != b.Length {
			return nil, fmt.Errorf("%w: %d bytes of memory for RAM block %q of %d", guest.ErrLayout, len(mem[i]), b.Name, b.Length)
		}
		words := (l.Pages(b) + 63) / 64
		mb := memoryBlock{mem: mem[i], received: make([]atomic.Uint64, words), named: make([]atomic.Uint64, words)}
		for j := range mb.received {
			mb.received[j].Store(^uint64(0))
		}
		m.blocks = append(m.blocks, mb)
	}
	return m, nil
}

// Layout returns the memory's blocks, nil before Setup.
func (m *Memory) Layout() *guest.Layout { return m.layout }

// Bytes returns the memory of b itself.
func (m *Memory) Bytes(b *guest.Block) []byte { return m.blocks[b.Index].mem }

// Received reports whether the page at offset of b was written by a lane.
func (m *Memory) Received(b *guest.Block, offset uint64) bool {
	page := offset / uint64(m.layout.PageSize)
	return m.blocks[b.Index].received[page/64].Load()&(1<<(page%64)) != 0
}

// File returns the memfd that b's memory is, which other processes can map; nil
// if it is none. The file is as long as the block, up to a whole number of the
// pages that back it. It is the Memory's to close.
func (m *Memory) File(b *guest.Block) *os.File { return m.blocks[b.Index].mapping.file }

// BackingPage returns the bytes of the pages that back b, which for memory that
// Setup did not map are taken to be small ones.
func (m *Memory) BackingPage(b *guest.Block) uint64 {
	if page := m.blocks[b.Index].mapping.page; page != 0 && m.Options.Pages == HugeTLB {
		return page
	}
	return uint64(os.Getpagesize())
}

// AbsentIsZero says that a page of b that has no memory yet is zero: it is
// anonymous memory that Setup mapped. Of other memory only its owner knows.
func (m *Memory) AbsentIsZero(b *guest.Block) bool {
	return m.blocks[b.Index].mapping.mem != nil && m.blocks[b.Index].mapping.file == nil
}

// Missing counts the pages of b that no lane was told of, neither with data nor
// as zero: after a whole migration of a source that names every page there are
// none.
func (m *Memory) Missing(b *guest.Block) uint64 {
	missing := m.layout.Pages(b)
	for i := range m.blocks[b.Index].named {
		missing -= uint64(bits.OnesCount64(m.blocks[b.Index].named[i].Load()))
	}
	return missing
}

// Close unmaps the memory if New or Setup mapped it. Nothing may use it
// any more.
func (m *Memory) Close() error { return unmap(m.blocks) }

func unmap(blocks []memoryBlock) error {
	var errs []error
	for i := range blocks {
		if blocks[i].mapping.mem == nil {
			continue
		}
		blocks[i].mem = nil
		if err := blocks[i].mapping.unmap(); err != nil {
			errs = append(errs, fmt.Errorf("guestmem: unmapping memory: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Lane opens a way into the memory for one goroutine.
func (m *Memory) Lane() (guest.Lane, error) {
	if m.layout == nil {
		return nil, fmt.Errorf("%w: no blocks set up yet", guest.ErrLayout)
	}
	return &memoryLane{m: m}, nil
}

type memoryLane struct {
	m     *Memory
	pages [][]byte
}

func (l *memoryLane) Pages(b *guest.Block, offsets []uint64) ([][]byte, error) {
	mb, size := &l.m.blocks[b.Index], uint64(l.m.layout.PageSize)
	l.pages = l.pages[:0]
	var marks marker
	var fresh run
	for _, off := range offsets {
		if err := l.m.layout.CheckOffset(b, off); err != nil {
			return nil, err
		}
		page := off / size
		if mb.faults && mb.received[page/64].Load()&(1<<(page%64)) == 0 && !fresh.extend(off, size) {
			mb.populate(fresh, size)
			fresh = run{off, off + size}
		}
		marks.add(page, mb.received, mb.named)
		l.pages = append(l.pages, mb.mem[off:off+size:off+size])
	}
	mb.populate(fresh, size)
	marks.flush(mb.received, mb.named)
	return l.pages, nil
}

// run is a range of bytes.
type run struct{ start, end uint64 }

func (r *run) extend(off, size uint64) bool {
	if off != r.end || r.start == r.end {
		return false
	}
	r.end += size
	return true
}

// populate makes pages that are about to be written present, all at once: that
// costs a third of one page fault after the other, and more where a hypervisor
// has its part in each.
func (mb *memoryBlock) populate(r run, size uint64) {
	if r.end-r.start > size {
		// It is no error if it fails: the first write does the same.
		unix.Madvise(mb.mem[r.start:r.end], unix.MADV_POPULATE_WRITE)
	}
}

func (l *memoryLane) Commit() error { return nil }

func (l *memoryLane) Zero(b *guest.Block, offsets []uint64) error {
	mb, size := &l.m.blocks[b.Index], uint64(l.m.layout.PageSize)
	var marks marker
	for _, off := range offsets {
		if err := l.m.layout.CheckOffset(b, off); err != nil {
			return err
		}
		page := off / size
		marks.add(page, mb.named)
		if mb.received[page/64].Load()&(1<<(page%64)) == 0 {
			continue
		}
		// Reading before writing keeps a page that is zero already clean.
		if p := mb.mem[off : off+size]; !deflate.IsZero(p) {
			clear(p)
		}
	}
	marks.flush(mb.named)
	return nil
}

// marker sets bits of pages that mostly follow one another: a word at a time,
// because several lanes set bits of one bitmap.
type marker struct {
	word uint64
	mask uint64
}

func (k *marker) add(page uint64, bitmaps ...[]atomic.Uint64) {
	if w := page / 64; w != k.word {
		k.flush(bitmaps...)
		k.word = w
	}
	k.mask |= 1 << (page % 64)
}

func (k *marker) flush(bitmaps ...[]atomic.Uint64) {
	if k.mask == 0 {
		return
	}
	for _, b := range bitmaps {
		if b[k.word].Load()&k.mask != k.mask {
			b[k.word].Or(k.mask)
		}
	}
	k.mask = 0
}

func (l *memoryLane) Close() error { return nil }

// Stable says that pages are guest memory itself, which stays.
func (l *memoryLane) Stable() bool { return true }

// All returns a source of every page of the memory.
func (m *Memory) All() guest.Source { return &memorySource{m: m} }

// AllBut returns a source of every page, those whose bit is set as zero without
// a look at them: see AbsentLog.
func (m *Memory) AllBut(absent guest.Bitmap) (guest.Source, error) {
	if err := absent.Fits(m.layout); err != nil {
		return nil, err
	}
	return &memorySource{m: m, absent: absent}, nil
}

// Dirty returns a source of the pages whose bit is set.
func (m *Memory) Dirty(dirty guest.Bitmap) (guest.Source, error) {
	if err := dirty.Fits(m.layout); err != nil {
		return nil, err
	}
	return &memorySource{m: m, dirty: dirty}, nil
}

// memorySource hands out runs of a packet's worth of pages by one shared
// cursor over all blocks.
type memorySource struct {
	m      *Memory
	dirty  guest.Bitmap  // nil for all pages
	absent guest.Bitmap  // nil for none
	cursor atomic.Uint64 // in runs, over the blocks end to end
}

func (s *memorySource) Layout() *guest.Layout { return s.m.layout }

func (s *memorySource) Next(ctx context.Context, b *guest.Batch) error {
	run := uint64(s.m.layout.PacketPages())
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
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
func (s *memorySource) fill(b *guest.Batch, first, end uint64) {
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
			if s.absent != nil && s.absent[b.Block.Index][page/64]&(1<<(page%64)) != 0 {
				b.Zero = append(b.Zero, page*size)
				continue
			}
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
