package migration

import (
	"fmt"
	"math/bits"
	"sync/atomic"

	"github.com/vmferry/vmferry/guest"
)

// namedPages knows which pages of a layout a source has named, with data or as
// zero. The destination keeps it itself and asks no sink: a check that decides
// whether a machine may start does not depend on what a sink, or a wrapper around
// one, can answer.
//
// Memory follows what was named, not the size that the source claims: a leaf has
// the bits of namedLeaf pages, a branch namedBranch leaves, and each is made with
// the first of its pages.
type namedPages struct {
	layout *guest.Layout
	blocks [][]atomic.Pointer[namedLeaves]
}

const (
	namedLeaf   = 512
	namedBranch = 64
)

type (
	namedBits   [namedLeaf / 64]atomic.Uint64
	namedLeaves [namedBranch]atomic.Pointer[namedBits]
)

func newNamedPages(l *guest.Layout) *namedPages {
	n := &namedPages{layout: l, blocks: make([][]atomic.Pointer[namedLeaves], len(l.Blocks))}
	const pages = namedLeaf * namedBranch
	for i, b := range l.Blocks {
		n.blocks[i] = make([]atomic.Pointer[namedLeaves], (l.Pages(b)+pages-1)/pages)
	}
	return n
}

// add notes the pages at the offsets of b, which were checked. Several
// goroutines may call it. A nil *namedPages notes nothing.
func (n *namedPages) add(b *guest.Block, offsets []uint64) {
	if n == nil {
		return
	}
	size := uint64(n.layout.PageSize)
	var word, mask uint64
	for _, off := range offsets {
		page := off / size
		if page/64 != word {
			n.set(b, word, mask)
			word, mask = page/64, 0
		}
		mask |= 1 << (page % 64)
	}
	n.set(b, word, mask)
}

func (n *namedPages) set(b *guest.Block, word, mask uint64) {
	if mask == 0 {
		return
	}
	const words = namedLeaf / 64
	leaves := getOrCreate(&n.blocks[b.Index][word/words/namedBranch])
	leaf := getOrCreate(&leaves[word/words%namedBranch])
	if w := &leaf[word%words]; w.Load()&mask != mask {
		w.Or(mask)
	}
}

// getOrCreate returns what p points to, and makes it first if nobody has.
func getOrCreate[T any](p *atomic.Pointer[T]) *T {
	if v := p.Load(); v != nil {
		return v
	}
	p.CompareAndSwap(nil, new(T))
	return p.Load()
}

// complete returns an error that wraps ErrIncomplete if a page was not named.
func (n *namedPages) complete() error {
	for i, b := range n.layout.Blocks {
		missing := n.layout.Pages(b)
		for j := range n.blocks[i] {
			if leaves := n.blocks[i][j].Load(); leaves != nil {
				missing -= leaves.count()
			}
		}
		if missing > 0 {
			return fmt.Errorf("%w: %d of the %d pages of RAM block %q never came", ErrIncomplete, missing, n.layout.Pages(b), b.Name)
		}
	}
	return nil
}

func (l *namedLeaves) count() (n uint64) {
	for i := range l {
		leaf := l[i].Load()
		if leaf == nil {
			continue
		}
		for w := range leaf {
			n += uint64(bits.OnesCount64(leaf[w].Load()))
		}
	}
	return n
}
