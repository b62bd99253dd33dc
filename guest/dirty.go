package guest

import (
	"errors"
	"fmt"
	"math/bits"
)

// Bitmap has one bit for each target page of a machine. Bitmap[i] describes block
// i of the layout; bit j of Bitmap[i][k] describes page 64k+j. KVM_GET_DIRTY_LOG
// uses the same format.
type Bitmap [][]uint64

// NewBitmap returns a bitmap of l's pages with no bit set.
func NewBitmap(l *Layout) Bitmap {
	b := make(Bitmap, len(l.Blocks))
	for i, block := range l.Blocks {
		b[i] = make([]uint64, (l.Pages(block)+63)/64)
	}
	return b
}

// Count returns the number of set bits.
func (b Bitmap) Count() uint64 {
	var n uint64
	for _, words := range b {
		for _, w := range words {
			n += uint64(bits.OnesCount64(w))
		}
	}
	return n
}

// Clear clears all bits.
func (b Bitmap) Clear() {
	for _, words := range b {
		clear(words)
	}
}

// SetRange sets the bits of pages [first, end) of a block. The block and the pages
// must be in the bitmap.
func (b Bitmap) SetRange(block int, first, end uint64) {
	words := b[block]
	for first < end {
		n := min(64-first%64, end-first)
		words[first/64] |= (^uint64(0) >> (64 - n)) << (first % 64)
		first += n
	}
}

// Fits returns an error that wraps ErrLayout if b is not a bitmap of l's pages.
func (b Bitmap) Fits(l *Layout) error {
	if len(b) != len(l.Blocks) {
		return fmt.Errorf("%w: %d dirty bitmaps for %d RAM blocks (want one for each)", ErrLayout, len(b), len(l.Blocks))
	}
	for i, block := range l.Blocks {
		if uint64(len(b[i])) != (l.Pages(block)+63)/64 {
			return fmt.Errorf("%w: dirty bitmap of RAM block %q has %d words for %d pages (want %d)", ErrLayout, block.Name, len(b[i]), l.Pages(block), (l.Pages(block)+63)/64)
		}
	}
	return nil
}

// DirtyLog logs the pages of a memory that are written. KVM provides one for
// guest memory (the dirty log or the dirty ring). Package dirty provides one for
// memory of this process. Callers serialize the calls.
type DirtyLog interface {
	// Start begins logging. Collect reports every write that begins after
	// Start returns.
	Start() error
	// Collect sets the bits of all pages that were written since Start or the
	// previous Collect, and keeps the other bits. The next Collect reports a
	// page that is written after this call examined it. A caller that reads the
	// pages after Collect returns therefore misses no write. Collect may report
	// a page twice, or a page that was not written.
	Collect(Bitmap) error
	// Stop ends logging and frees the resources of the log. It does not disturb
	// writers.
	Stop() error
}

// AbsentLog is a DirtyLog that also reports absent pages. An absent page has no
// memory yet, so its content is zero. Reading such a page costs a page fault, and
// on some kernels allocates memory.
type AbsentLog interface {
	DirtyLog
	// Absent sets the bits of pages that were absent after Start. Collect
	// reports a page that becomes present later, because a write causes that.
	// Absent may report fewer pages than are absent, or none.
	Absent(Bitmap) error
}

// JoinLogs returns a log that reports every page that any of the logs reports.
// For example, it joins KVM's log of the guest's writes with a log of the writes
// of the VMM's device models (dirty.Marks), which KVM does not log.
func JoinLogs(logs ...DirtyLog) AbsentLog { return joined(logs) }

type joined []DirtyLog

func (j joined) Start() error {
	for i, l := range j {
		if err := l.Start(); err != nil {
			return errors.Join(err, j[:i].Stop())
		}
	}
	return nil
}

func (j joined) Collect(b Bitmap) error {
	for _, l := range j {
		if err := l.Collect(b); err != nil {
			return err
		}
	}
	return nil
}

// Absent asks every log that is an AbsentLog. All logs have started, so Collect
// reports a page that becomes present after one log examined it.
func (j joined) Absent(b Bitmap) error {
	for _, l := range j {
		if a, ok := l.(AbsentLog); ok {
			if err := a.Absent(b); err != nil {
				return err
			}
		}
	}
	return nil
}

func (j joined) Stop() error {
	var errs []error
	for _, l := range j {
		errs = append(errs, l.Stop())
	}
	return errors.Join(errs...)
}
