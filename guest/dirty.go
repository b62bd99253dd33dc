package guest

import (
	"errors"
	"fmt"
	"math/bits"
)

// Bitmap has a bit for every page of a machine: Bitmap[i] is that of block i,
// bit j of its word k is for page 64k+j. This is how KVM gives its dirty log.
type Bitmap [][]uint64

// NewBitmap returns a bitmap of l's pages with no bit set.
func NewBitmap(l *Layout) Bitmap {
	b := make(Bitmap, len(l.Blocks))
	for i, block := range l.Blocks {
		b[i] = make([]uint64, (l.Pages(block)+63)/64)
	}
	return b
}

// Count returns how many bits are set.
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

// SetRange sets the bits of the pages of a block from first up to end.
func (b Bitmap) SetRange(block int, first, end uint64) {
	words := b[block]
	for first < end {
		n := min(64-first%64, end-first)
		words[first/64] |= (^uint64(0) >> (64 - n)) << (first % 64)
		first += n
	}
}

// Fits says whether b is a bitmap of l's pages.
func (b Bitmap) Fits(l *Layout) error {
	if len(b) != len(l.Blocks) {
		return fmt.Errorf("%w: %d dirty bitmaps for %d RAM blocks", ErrLayout, len(b), len(l.Blocks))
	}
	for i, block := range l.Blocks {
		if uint64(len(b[i])) != (l.Pages(block)+63)/64 {
			return fmt.Errorf("%w: a dirty bitmap of %d words for RAM block %q of %d pages", ErrLayout, len(b[i]), block.Name, l.Pages(block))
		}
	}
	return nil
}

// DirtyLog knows which pages of a memory were written. A VMM has one in KVM
// (its dirty log or dirty ring); package dirty has one for memory of this
// process. Its calls come one at a time.
type DirtyLog interface {
	// Start begins to log. A write after it returns is in a Collect.
	Start() error
	// Collect sets the bits of all pages that were written since Start or
	// since the Collect before, and leaves the others as they are. A page that
	// is written after Collect has looked at it is in the next one: who reads
	// the pages once Collect has returned misses no write. A log may name a page
	// twice, or one that was not written.
	Collect(Bitmap) error
	// Stop ends the log and frees what it takes. Writers notice nothing.
	Stop() error
}

// AbsentLog is a DirtyLog that also knows which pages are not there, and so are
// zero. To read them would be a page fault each, and on some kernels would give
// each of them memory.
type AbsentLog interface {
	DirtyLog
	// Absent sets the bits of pages that were absent after Start. A page that
	// comes into being later was written, and is in a Collect. A log may know
	// of none.
	Absent(Bitmap) error
}

// JoinLogs returns a log of what any of logs names: KVM's, say, which sees what
// a guest writes, and one that the VMM's device models keep (dirty.Marks), which
// KVM does not see.
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

// Absent asks all that know. What comes into being after one of them has looked
// is in another's Collect, since all have started.
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
