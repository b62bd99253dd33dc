package dirty

import (
	"fmt"
	"os"
	"sync/atomic"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
)

// Marks is a guest.DirtyLog that is kept by whoever writes: a VMM's device
// models, an emulator, a program that knows where it writes. A mark takes
// nanoseconds where a page that the kernel protects takes a page fault, and
// collecting looks at one bit a page and at no page table.
//
// It misses what is not marked. For memory that others write to as well, join
// their logs: see guest.JoinLogs.
type Marks struct {
	memory  *guestmem.Memory
	layout  *guest.Layout
	bits    guest.Bitmap
	started bool
}

// NewMarks returns a log of m's memory, which has to have its blocks. It may be
// marked from now on.
func NewMarks(m *guestmem.Memory) (*Marks, error) {
	l := m.Layout()
	if l == nil {
		return nil, fmt.Errorf("%w: the memory has no blocks yet", ErrState)
	}
	return &Marks{memory: m, layout: l, bits: guest.NewBitmap(l)}, nil
}

// Mark says that length bytes of a RAM block were written, from offset on. It has
// to be called after the write: a mark that is collected before the write would
// lose it. Any number of goroutines may call it at any time. Bytes outside of the
// block are a panic.
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
		// Not even a bit that is set already may be left alone: the write
		// before it has to be seen by whoever takes the bit away, and only a
		// read-modify-write is in order with that.
		atomic.OrUint64(&words[page/64], (^uint64(0)>>(64-n))<<(page%64))
		page += n
	}
}

// Start forgets all marks.
func (m *Marks) Start() error {
	if m.started {
		return fmt.Errorf("%w: Start of a log that is started", ErrState)
	}
	m.started = true
	m.take(nil)
	return nil
}

// Collect takes the marks.
func (m *Marks) Collect(b guest.Bitmap) error {
	if err := m.check(b); err != nil {
		return err
	}
	m.take(b)
	return nil
}

// Absent sets the bits of pages that are not there, where the kernel says so. No
// memory may be discarded meanwhile.
func (m *Marks) Absent(b guest.Bitmap) error {
	if err := m.check(b); err != nil {
		return err
	}
	pagemap, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return nil // a log may know of none
	}
	defer pagemap.Close()
	for i, block := range m.layout.Blocks {
		if !m.memory.AbsentIsZero(block) || m.memory.BackingPage(block) != uint64(os.Getpagesize()) {
			continue
		}
		s, look := spanOf(m.memory.Bytes(block)), absence{pagemap, m.layout, entryNone}
		whole := pieceOf{i, s.start, s.start + s.size&^(uint64(os.Getpagesize())-1)}
		if err := look.in(whole, s.start, func(from, to uint64) { b.SetRange(i, from, to) }); err != nil {
			return err
		}
	}
	return nil
}

// Stop lets marks be marks. It is no error to stop a log that is stopped.
func (m *Marks) Stop() error {
	m.started = false
	return nil
}

func (m *Marks) check(b guest.Bitmap) error { return canFill(b, m.layout, m.started) }

// take moves the marks to b.
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
