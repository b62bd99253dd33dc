package dirty

import (
	"fmt"
	"os"
	"sync/atomic"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
)

// Marks is a guest.DirtyLog in which the writer marks the pages: a VMM's device models,
// an emulator, or a program that knows which pages it writes. A mark takes nanoseconds,
// whereas a page that the kernel protects takes a page fault. Collect reads one bit for
// each page and no page table.
//
// Marks misses writes that are not marked. If another writer has a log of its own, join
// the logs with guest.JoinLogs.
//
// Any number of goroutines may call Mark at any time. The caller serializes the other
// methods.
type Marks struct {
	memory  *guestmem.Memory
	layout  *guest.Layout
	bits    guest.Bitmap
	started bool
}

// NewMarks returns a log of m's memory. m must be set up, otherwise the error wraps
// ErrState. Mark may be called before Start.
func NewMarks(m *guestmem.Memory) (*Marks, error) {
	l := m.Layout()
	if l == nil {
		return nil, fmt.Errorf("%w: the memory has no blocks yet (call Setup first)", ErrState)
	}
	return &Marks{memory: m, layout: l, bits: guest.NewBitmap(l)}, nil
}

// Mark records that length bytes at offset of a RAM block were written. The writer must
// call Mark after the write: if Collect took the mark before the write, the write would
// be lost. Any number of goroutines may call Mark at any time. Mark panics if the bytes
// are outside the block.
func (m *Marks) Mark(b *guest.Block, offset, length uint64) {
	if length == 0 {
		return
	}
	if offset >= b.Length || length > b.Length-offset {
		panic(fmt.Sprintf("dirty: marking %d bytes at %#x of RAM block %q, which has %d", length, offset, b.Name, b.Length))
	}
	size := uint64(m.layout.PageSize)
	words := m.bits[b.Index]
	for page, last := offset/size, (offset+length-1)/size; page <= last; {
		n := min(64-page%64, last-page+1)
		// Write the bit even if it is already set. The goroutine that clears the
		// bit must see the caller's write, and only a read-modify-write of the
		// word orders the two.
		atomic.OrUint64(&words[page/64], (^uint64(0)>>(64-n))<<(page%64))
		page += n
	}
}

// Start begins logging. It discards all earlier marks.
func (m *Marks) Start() error {
	if m.started {
		return fmt.Errorf("%w: the log is already started", ErrState)
	}
	m.started = true
	m.take(nil)
	return nil
}

// Collect moves the marks to b.
func (m *Marks) Collect(b guest.Bitmap) error {
	if err := m.check(b); err != nil {
		return err
	}
	m.take(b)
	return nil
}

// Absent sets the bits of absent pages, where the kernel reports them. Memory must not
// be discarded during the call.
func (m *Marks) Absent(b guest.Bitmap) error {
	if err := m.check(b); err != nil {
		return err
	}
	pagemap, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return nil // Absent may report no page
	}
	defer pagemap.Close()
	for i, block := range m.layout.Blocks {
		if !m.memory.AbsentIsZero(block) || m.memory.BackingPage(block) != uint64(os.Getpagesize()) {
			continue
		}
		s, look := spanOf(m.memory.Bytes(block)), absence{pagemap, m.layout, entryNone}
		whole := pieceOf{i, s.start, s.start + s.size&^(uint64(os.Getpagesize())-1)}
		if err := look.eachRun(whole, s.start, func(from, to uint64) { b.SetRange(i, from, to) }); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends logging. It does nothing if the log is stopped.
func (m *Marks) Stop() error {
	m.started = false
	return nil
}

func (m *Marks) check(b guest.Bitmap) error { return canFill(b, m.layout, m.started) }

// take moves the marks to b, or discards them if b is nil.
func (m *Marks) take(b guest.Bitmap) {
	for i, words := range m.bits {
		for w := range words {
			if atomic.LoadUint64(&words[w]) == 0 {
				continue
			}
			if got := atomic.SwapUint64(&words[w], 0); b != nil {
				b[i][w] |= got
			}
		}
	}
}
