package dirty

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
)

// Mode is how writes are noticed.
type Mode string

const (
	// Auto is Async where the kernel has it, else Sync.
	Auto Mode = "auto"
	// Async lets writers go on by themselves.
	Async Mode = "async"
	// Sync has each first write of a page wait until it is noted.
	Sync Mode = "sync"
)

var (
	// ErrUnsupported is wrapped when the kernel cannot do what was asked for.
	// The text says what is missing.
	ErrUnsupported = errors.New("dirty tracking is not supported here")
	// ErrState is wrapped when calls come in an order that makes no sense.
	ErrState = errors.New("dirty: misuse")
)

// Options direct a log. The zero value is ready for use.
type Options struct {
	Mode Mode
	// Workers is how many threads scan; 0 is one a processor, 8 at most.
	Workers int
}

// Log is a guest.DirtyLog of one memory. It may be started again once stopped.
type Log struct {
	mode    Mode
	workers int
	layout  *guest.Layout
	mem     [][]byte
	page    []uint64   // bytes of the pages that back each block
	zero    []bool     // of each block: what is not there is zero
	files   []*os.File // of each block: what it is mapped from, nil if that is not known

	mu      sync.Mutex
	tracker tracker // nil while stopped
}

// tracker is a mode at work.
type tracker interface {
	// protect write-protects all memory: the log begins.
	protect() error
	collect(guest.Bitmap) error
	// absentPages sets the bits of pages that are known not to be there.
	absentPages(guest.Bitmap) error
	close() error
}

// New returns a log of m's memory, which has to have its blocks, at whole pages
// of the kernel's. Nothing is protected before Start.
func New(m *guestmem.Memory, opts Options) (*Log, error) {
	l := &Log{mode: opts.Mode, workers: opts.Workers, layout: m.Layout()}
	if l.layout == nil {
		return nil, fmt.Errorf("%w: the memory has no blocks yet", ErrState)
	}
	if l.workers <= 0 {
		l.workers = min(runtime.GOMAXPROCS(0), 8)
	}
	page := uintptr(os.Getpagesize())
	for _, b := range l.layout.Blocks {
		mem := m.Bytes(b)
		if start := uintptr(unsafe.Pointer(unsafe.SliceData(mem))); start%page != 0 || uintptr(len(mem))%page != 0 {
			return nil, fmt.Errorf("%w: RAM block %q, %d bytes at %#x, is not made of whole pages of %d bytes", ErrState, b.Name, len(mem), start, page)
		}
		l.mem, l.page = append(l.mem, mem), append(l.page, m.BackingPage(b))
		l.zero = append(l.zero, m.AbsentIsZero(b))
		l.files = append(l.files, m.File(b))
	}
	var err error
	l.mode, err = choose(opts.Mode)
	return l, err
}

// choose settles on a mode that the kernel has.
func choose(mode Mode) (Mode, error) {
	has := Probe()
	switch mode {
	case "", Auto:
		if has.Async == nil {
			return Async, nil
		}
		if has.Sync == nil {
			return Sync, nil
		}
		return "", fmt.Errorf("%w: asynchronously: %w; synchronously: %w", ErrUnsupported, has.Async, has.Sync)
	case Async:
		if has.Async != nil {
			return "", fmt.Errorf("%w: asynchronously: %w", ErrUnsupported, has.Async)
		}
	case Sync:
		if has.Sync != nil {
			return "", fmt.Errorf("%w: synchronously: %w", ErrUnsupported, has.Sync)
		}
	default:
		return "", fmt.Errorf("%w: unknown mode %q (want auto, async or sync)", ErrState, mode)
	}
	return mode, nil
}

// Mode returns the mode in use: Async or Sync.
func (l *Log) Mode() Mode { return l.mode }

// Start write-protects all memory.
func (l *Log) Start() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tracker != nil {
		return fmt.Errorf("%w: Start of a log that is started", ErrState)
	}
	var t tracker
	var err error
	if l.mode == Async {
		t, err = newAsync(l)
	} else {
		t, err = newSync(l)
	}
	if err != nil {
		return err
	}
	if err := t.protect(); err != nil {
		return errors.Join(err, t.close())
	}
	l.tracker = t
	return nil
}

// Collect sets the bits of the pages that were written.
func (l *Log) Collect(b guest.Bitmap) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.check(b); err != nil {
		return err
	}
	return l.tracker.collect(b)
}

// Absent sets the bits of pages that are not there: of anonymous memory in the
// mode Async. It makes Log a guest.AbsentLog.
func (l *Log) Absent(b guest.Bitmap) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.check(b); err != nil {
		return err
	}
	return l.tracker.absentPages(b)
}

// check says whether the log can fill b.
func (l *Log) check(b guest.Bitmap) error { return canFill(b, l.layout, l.tracker != nil) }

// canFill says whether a log of l's pages can fill b.
func canFill(b guest.Bitmap, l *guest.Layout, started bool) error {
	if !started {
		return fmt.Errorf("%w: the log is not started", ErrState)
	}
	if err := b.Fits(l); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	return nil
}

// Stop lifts all protection. It is no error to stop a log that is stopped.
func (l *Log) Stop() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tracker == nil {
		return nil
	}
	t := l.tracker
	l.tracker = nil
	return t.close()
}

// mark sets the bits of the target pages that bytes from first up to end of a
// block are in.
func (l *Log) mark(b guest.Bitmap, block int, first, end uint64) {
	size := uint64(l.layout.PageSize)
	b.SetRange(block, first/size, min((end+size-1)/size, l.layout.Pages(l.layout.Blocks[block])))
}
