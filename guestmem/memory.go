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

// Memory is guest memory of this process. As a sink it receives pages in place. As
// a source it yields slices of itself.
//
// Each block has a bitmap of the pages that lanes wrote. A page with data costs one
// page fault at its first write, or none if the page is present (see Options). A
// zero page whose bit is clear costs no page fault, because Memory neither reads nor
// writes the page. The bitmap does not include writes through Bytes or File. A page
// that the program wrote that way before the end of the migration therefore keeps
// its content when it arrives as zero.
//
// Several goroutines may write, each with its own lane. Setup and Close must not run
// at the same time as another method.
type Memory struct {
	// Options direct how Setup maps the blocks.
	Options Options
	// Map, if it is set before Setup, returns the memory of a block, zeroed, of
	// the block's length. The caller still owns that memory: Close does not free
	// it.
	Map func(*guest.Block) ([]byte, error)

	layout *guest.Layout
	blocks []memoryBlock
}

type memoryBlock struct {
	mem     []byte
	mapping mapping // what Setup mapped, if it did
	faults  bool    // pages that were not received may be absent
	// received has a bit for each page that a lane wrote, named for each page
	// that a lane got, with data or as zero.
	received, named []atomic.Uint64
}

// New maps zeroed memory for every block of the layout, with the zero Options.
// Close unmaps it.
func New(l *guest.Layout) (*Memory, error) { return NewWith(l, Options{}) }

// NewWith maps zeroed memory for every block of the layout according to opts. The
// error wraps ErrNoMemory, ErrNoHugePages, ErrNotPresent, ErrNUMA or
// guest.ErrLayout. Close unmaps the memory.
func NewWith(l *guest.Layout, opts Options) (*Memory, error) {
	m := &Memory{Options: opts}
	if err := m.Setup(l); err != nil {
		return nil, err
	}
	return m, nil
}

// Setup maps the memory of the layout. It succeeds once. The stream of a migration
// thus determines the size of a new(Memory).
func (m *Memory) Setup(l *guest.Layout) error {
	if m.layout != nil {
		return fmt.Errorf("%w: the memory already has blocks", guest.ErrLayout)
	}
	blocks := make([]memoryBlock, 0, len(l.Blocks))
	for _, b := range l.Blocks {
		mb, err := m.mapBlock(b, l.PageSize)
		if err != nil {
			unmap(blocks)
			return fmt.Errorf("mapping %d bytes for RAM block %q: %w", b.Length, b.Name, err)
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
		err = fmt.Errorf("%w: Map returned %d bytes (want %d)", guest.ErrLayout, len(mem), b.Length)
	}
	return memoryBlock{mem: mem}, err
}

// Attach returns a Memory of memory that the caller owns, one slice for each block.
// Memory assumes that the pages hold data, so a zero page that arrives clears its
// page. Close does not free the memory.
func Attach(l *guest.Layout, mem [][]byte) (*Memory, error) {
	if len(mem) != len(l.Blocks) {
		return nil, fmt.Errorf("%w: %d memory slices for %d RAM blocks (want one for each)", guest.ErrLayout, len(mem), len(l.Blocks))
	}
	m := &Memory{layout: l}
	for i, b := range l.Blocks {
		if uint64(len(mem[i])) != b.Length {
			return nil, fmt.Errorf("%w: memory slice of %d bytes for RAM block %q of %d bytes", guest.ErrLayout, len(mem[i]), b.Name, b.Length)
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

// Layout returns the layout of the memory, or nil before Setup.
func (m *Memory) Layout() *guest.Layout { return m.layout }

// Bytes returns the memory of b, not a copy.
func (m *Memory) Bytes(b *guest.Block) []byte { return m.blocks[b.Index].mem }

// Received reports whether a lane wrote data to the page at offset of b. For
// attached memory it reports true.
func (m *Memory) Received(b *guest.Block, offset uint64) bool {
	page := offset / uint64(m.layout.PageSize)
	return m.blocks[b.Index].received[page/64].Load()&(1<<(page%64)) != 0
}

// File returns the memfd of b's memory, which other processes can map, or nil if
// the memory is not a memfd. The file has the block's length, rounded up to a
// multiple of BackingPage. The Memory owns the file and closes it.
func (m *Memory) File(b *guest.Block) *os.File { return m.blocks[b.Index].mapping.file }

// BackingPage returns the size in bytes of the pages that back b. For memory that
// Setup did not map it returns the size of a small page.
func (m *Memory) BackingPage(b *guest.Block) uint64 {
	if page := m.blocks[b.Index].mapping.page; page != 0 && m.Options.Pages == HugeTLB {
		return page
	}
	return uint64(os.Getpagesize())
}

// AbsentIsZero reports whether an absent page of b is known to be zero. It is true
// for anonymous memory that Setup mapped. A page of other memory may have content
// that this process has not mapped yet.
func (m *Memory) AbsentIsZero(b *guest.Block) bool {
	return m.blocks[b.Index].mapping.mem != nil && m.blocks[b.Index].mapping.file == nil
}

// Missing returns the number of pages of b that no lane received, neither with data
// nor as zero. It is 0 after a complete migration from a source that names every
// page.
func (m *Memory) Missing(b *guest.Block) uint64 {
	missing := m.layout.Pages(b)
	for i := range m.blocks[b.Index].named {
		missing -= uint64(bits.OnesCount64(m.blocks[b.Index].named[i].Load()))
	}
	return missing
}

// Close unmaps the memory that New, NewWith or Setup mapped. The memory and its
// lanes must not be used afterwards. A second call does nothing.
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

// Lane opens a lane for one goroutine. The lane is not buffered: its Commit and
// Close do nothing.
func (m *Memory) Lane() (guest.Lane, error) {
	if m.layout == nil {
		return nil, fmt.Errorf("%w: the memory has no blocks yet (call Setup first)", guest.ErrLayout)
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

// populate makes a run of pages present in one system call before they are written.
// That takes a third of the time of one page fault for each page. It saves more in a
// virtual machine, where the hypervisor takes part in each fault.
func (mb *memoryBlock) populate(r run, size uint64) {
	if r.end-r.start > size {
		// A failure is harmless: the first write of a page makes it present.
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
		// A page that is already zero is not written, so it stays clean.
		if p := mb.mem[off : off+size]; !deflate.IsZero(p) {
			clear(p)
		}
	}
	marks.flush(mb.named)
	return nil
}

// marker sets bits of pages that are mostly consecutive. It writes a word at a time,
// because several lanes set bits of one bitmap atomically.
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

// Stable returns true: the buffers of Pages are guest memory itself.
func (l *memoryLane) Stable() bool { return true }

// All returns a source of every page of the memory. Each page of zeros is yielded as
// a zero page.
func (m *Memory) All() guest.Source { return &memorySource{m: m} }

// AllBut returns a source of every page. A page whose bit is set in absent is yielded
// as a zero page without being read: see guest.AbsentLog.
func (m *Memory) AllBut(absent guest.Bitmap) (guest.Source, error) {
	if err := absent.Fits(m.layout); err != nil {
		return nil, err
	}
	return &memorySource{m: m, absent: absent}, nil
}

// Dirty returns a source of the pages whose bit is set in dirty.
func (m *Memory) Dirty(dirty guest.Bitmap) (guest.Source, error) {
	if err := dirty.Fits(m.layout); err != nil {
		return nil, err
	}
	return &memorySource{m: m, dirty: dirty}, nil
}

// memorySource yields the pages in runs of one packet. All goroutines share one
// cursor over the runs of all blocks.
type memorySource struct {
	m      *Memory
	dirty  guest.Bitmap  // nil for all pages
	absent guest.Bitmap  // nil for none
	cursor atomic.Uint64 // next run, counted over all blocks in order
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

// fill puts pages [first, end) of b's block into b. With a dirty bitmap it puts only
// the dirty ones.
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
