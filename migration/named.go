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
// the bits of namedLeaf pages and is made with the first of them.
type namedPages struct {
	layout *guest.Layout
	blocks [][]atomic.Pointer[namedBits]
}

// namedLeaf is how many pages a leaf has.
const namedLeaf = 512

type namedBits [namedLeaf / 64]atomic.Uint64

func newNamedPages(l *guest.Layout) *namedPages {
	n := &namedPages{layout: l, blocks: make([][]atomic.Pointer[namedBits], len(l.Blocks))}
	for i, b := range l.Blocks {
		n.blocks[i] = make([]atomic.Pointer[namedBits], (l.Pages(b)+namedLeaf-1)/namedLeaf)
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
	at := &n.blocks[b.Index][word/words]
	leaf := at.Load()
	if leaf == nil {
		at.CompareAndSwap(nil, new(namedBits))
		leaf = at.Load()
	}
	if w := &leaf[word%words]; w.Load()&mask != mask {
		w.Or(mask)
	}
}

// complete returns an error that wraps ErrIncomplete if a page was not named.
func (n *namedPages) complete() error {
	for i, b := range n.layout.Blocks {
		missing := n.layout.Pages(b)
		for j := range n.blocks[i] {
			if leaf := n.blocks[i][j].Load(); leaf != nil {
				for w := range leaf {
					missing -= uint64(bits.OnesCount64(leaf[w].Load()))
				}
			}
		}
		if missing > 0 {
			return fmt.Errorf("%w: %d of the %d pages of RAM block %q never came", ErrIncomplete, missing, n.layout.Pages(b), b.Name)
		}
	}
	return nil
}
