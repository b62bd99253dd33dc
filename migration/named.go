package migration

import (
	"fmt"
	"math/bits"
	"sync/atomic"

	"github.com/vmferry/vmferry/guest"
)

// namedPages is the set of pages that a source has sent, with data or as zero. The
// destination keeps it, not the sink: the check whether a machine may start must not
// depend on a sink or a wrapper around one.
//
// Its memory is proportional to the pages that were sent, not to the size that the
// source claims: a leaf has the bits of namedLeaf pages, a branch has namedBranch
// leaves, and each is allocated with its first page.
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

// add adds the pages at the offsets of b, which the caller has checked. It may be
// called concurrently. On a nil *namedPages it does nothing.
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

// getOrCreate returns the value that p points to, and creates it if p is nil.
func getOrCreate[T any](p *atomic.Pointer[T]) *T {
	if v := p.Load(); v != nil {
		return v
	}
	p.CompareAndSwap(nil, new(T))
	return p.Load()
}

// complete returns an error that wraps ErrIncomplete if a page of the layout is not in
// the set.
func (n *namedPages) complete() error {
	for i, b := range n.layout.Blocks {
		missing := n.layout.Pages(b)
		for j := range n.blocks[i] {
			if leaves := n.blocks[i][j].Load(); leaves != nil {
				missing -= leaves.count()
			}
		}
		if missing > 0 {
			return fmt.Errorf("%w: %d of the %d pages of RAM block %q were not sent", ErrIncomplete, missing, n.layout.Pages(b), b.Name)
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
