package snapshot

import (
	"cmp"
	"slices"
	"sync/atomic"

	"github.com/vmferry/vmferry/guest"
)

// chunkPages is how many pages of a block one chunk of the table, and of the
// index, covers: 256 MiB of 4 KiB pages.
const chunkPages = 1 << 16

// table says where each page of a block is kept. Its chunks are made when the
// first page in them is: a large machine that is mostly zero stays small.
type table struct {
	pages  uint64
	chunks []atomic.Pointer[[chunkPages]atomic.Uint64]
}

func newTable(l *guest.Layout, b *guest.Block) *table {
	pages := l.Pages(b)
	return &table{pages: pages, chunks: make([]atomic.Pointer[[chunkPages]atomic.Uint64], (pages+chunkPages-1)/chunkPages)}
}

// put says where page is kept now.
func (t *table) put(page uint64, l location) {
	slot := &t.chunks[page/chunkPages]
	chunk := slot.Load()
	if chunk == nil {
		if l == 0 {
			return
		}
		chunk = new([chunkPages]atomic.Uint64)
		if !slot.CompareAndSwap(nil, chunk) {
			chunk = slot.Load()
		}
	}
	chunk[page%chunkPages].Store(uint64(l))
}

// entry is a page of a chunk and where it is.
type entry struct {
	page uint32 // within the chunk
	loc  location
}

// entries appends what chunk number n holds, in the order of pages.
func (t *table) entries(dst []entry, n int) []entry {
	chunk := t.chunks[n].Load()
	if chunk == nil {
		return dst
	}
	for i := range chunk {
		if l := location(chunk[i].Load()); l != 0 {
			dst = append(dst, entry{uint32(i), l})
		}
	}
	return dst
}

// byExtent sorts entries so that those of one extent follow one another in
// the order of their slots, and calls f with each such run.
func byExtent(entries []entry, f func(run []entry) error) error {
	// Pages mostly come as they were stored, so this is mostly sorted.
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.loc, b.loc) })
	for len(entries) > 0 {
		n := 1
		for n < len(entries) && entries[n].loc.extent() == entries[0].loc.extent() {
			n++
		}
		if err := f(entries[:n]); err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}
