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

// Mode is the way in which a Log detects writes.
type Mode string

const (
	// Auto selects Async if the kernel supports it, otherwise Sync.
	Auto Mode = "auto"
	// Async lets the kernel record writes. Writers do not wait.
	Async Mode = "async"
	// Sync makes the first write of each page wait until this package records it.
	Sync Mode = "sync"
)

var (
	// ErrUnsupported is wrapped if the kernel does not support the mode. The
	// text names the missing feature.
	ErrUnsupported = errors.New("dirty: not supported")
	// ErrState is wrapped if a call is invalid in the state of the log, or if its
	// arguments do not fit the log.
	ErrState = errors.New("dirty: misuse")
)

// Options configure a Log. The zero value selects the mode Auto and the default
// number of workers.
type Options struct {
	// Mode is Auto if it is empty.
	Mode Mode
	// Workers is the number of threads that scan. 0 selects one for each
	// processor, at most 8.
	Workers int
}

// Log is a guest.DirtyLog and a guest.AbsentLog of one memory. A stopped Log may be
// started again. Methods may be called by several goroutines: a Log serializes them.
type Log struct {
	mode    Mode
	workers int
	layout  *guest.Layout
	mem     [][]byte
	page    []uint64   // for each block: size in bytes of the pages that back it
	zero    []bool     // for each block: absent pages are zero
	files   []*os.File // for each block: the file that is mapped, nil if unknown

	mu      sync.Mutex
	tracker tracker // nil while stopped
}

// tracker implements a mode for a started log.
type tracker interface {
	// protect write-protects all memory, which begins logging.
	protect() error
	collect(guest.Bitmap) error
	// absentPages sets the bits of pages that are known to be absent.
	absentPages(guest.Bitmap) error
	close() error
}

// New returns a log of m's memory. m must be set up, and its blocks must start and end
// at pages of the kernel: otherwise the error wraps ErrState. The error wraps
// ErrUnsupported if the kernel does not support the mode. New protects no memory:
// Start does.
func New(m *guestmem.Memory, opts Options) (*Log, error) {
	l := &Log{mode: opts.Mode, workers: opts.Workers, layout: m.Layout()}
	if l.layout == nil {
		return nil, fmt.Errorf("%w: the memory has no blocks yet (call Setup first)", ErrState)
	}
	if l.workers <= 0 {
		l.workers = min(runtime.GOMAXPROCS(0), 8)
	}
	page := uintptr(os.Getpagesize())
	for _, b := range l.layout.Blocks {
		mem := m.Bytes(b)
		if start := uintptr(unsafe.Pointer(unsafe.SliceData(mem))); start%page != 0 || uintptr(len(mem))%page != 0 {
			return nil, fmt.Errorf("%w: RAM block %q, %d bytes at %#x, is not a range of whole pages of %d bytes", ErrState, b.Name, len(mem), start, page)
		}
		l.mem, l.page = append(l.mem, mem), append(l.page, m.BackingPage(b))
		l.zero = append(l.zero, m.AbsentIsZero(b))
		l.files = append(l.files, m.File(b))
	}
	var err error
	l.mode, err = chooseMode(opts.Mode)
	return l, err
}

// chooseMode returns a mode that the kernel supports.
func chooseMode(mode Mode) (Mode, error) {
	has := Probe()
	switch mode {
	case "", Auto:
		if has.Async == nil {
			return Async, nil
		}
		if has.Sync == nil {
			return Sync, nil
		}
		return "", fmt.Errorf("%w: mode async: %w; mode sync: %w", ErrUnsupported, has.Async, has.Sync)
	case Async:
		if has.Async != nil {
			return "", fmt.Errorf("%w: mode async: %w", ErrUnsupported, has.Async)
		}
	case Sync:
		if has.Sync != nil {
			return "", fmt.Errorf("%w: mode sync: %w", ErrUnsupported, has.Sync)
		}
	default:
		return "", fmt.Errorf("%w: unknown mode %q (want auto, async or sync)", ErrState, mode)
	}
	return mode, nil
}

// Mode returns the mode in use: Async or Sync.
func (l *Log) Mode() Mode { return l.mode }

// Start begins logging: it write-protects all memory.
func (l *Log) Start() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tracker != nil {
		return fmt.Errorf("%w: the log is already started", ErrState)
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

// Collect sets the bits of the pages that were written since Start or the previous
// Collect.
func (l *Log) Collect(b guest.Bitmap) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.check(b); err != nil {
		return err
	}
	return l.tracker.collect(b)
}

// Absent sets the bits of absent pages. It reports pages of anonymous memory in the
// mode Async, and no others. It makes Log a guest.AbsentLog.
func (l *Log) Absent(b guest.Bitmap) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.check(b); err != nil {
		return err
	}
	return l.tracker.absentPages(b)
}

// check returns an error if the log cannot fill b.
func (l *Log) check(b guest.Bitmap) error { return canFill(b, l.layout, l.tracker != nil) }

// canFill returns an error if a log of l's pages cannot fill b.
func canFill(b guest.Bitmap, l *guest.Layout, started bool) error {
	if !started {
		return fmt.Errorf("%w: the log is not started", ErrState)
	}
	if err := b.Fits(l); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	return nil
}

// Stop ends logging: it lifts the protection of all memory. It does nothing if the
// log is stopped.
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

// mark sets the bits of the target pages that contain bytes [first, end) of a block.
func (l *Log) mark(b guest.Bitmap, block int, first, end uint64) {
	size := uint64(l.layout.PageSize)
	b.SetRange(block, first/size, min((end+size-1)/size, l.layout.Pages(l.layout.Blocks[block])))
}
