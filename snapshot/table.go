package snapshot

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vmferry/vmferry/guest"
)

// chunkPages is the number of pages of a chunk of the table and of the index: 256 MiB of
// 4 KiB pages.
const chunkPages = 1 << 16

// fewPages is the number of pages that a chunk keeps as a list before it allocates an
// array for all pages. The array takes 512 KiB. A hostile source must send at least
// 36 KiB (9 bytes for each page) to make the writer allocate one.
const fewPages = 4096

// table maps each page of a block to its location. It allocates a chunk for the first
// page in the chunk, and a chunk grows with its pages. So the table of a large machine
// that is mostly zero stays small.
type table struct {
	pages  uint64
	chunks []atomic.Pointer[tableChunk]
}

// tableChunk holds the locations of one chunk: a list of few pages, or an array of all.
type tableChunk struct {
	all atomic.Pointer[[chunkPages]atomic.Uint64]

	mu  sync.Mutex
	few []packed // in the order of pages; nil if all is set
}

// packed is a page number of a chunk in the upper 16 bits and its location in the lower
// 48 bits.
type packed uint64

func pack(page uint64, l location) packed { return packed(page<<48 | uint64(l)) }
func (p packed) page() uint64             { return uint64(p >> 48) }
func (p packed) location() location       { return location(p & (1<<48 - 1)) }

func newTable(l *guest.Layout, b *guest.Block) *table {
	pages := l.Pages(b)
	return &table{pages: pages, chunks: make([]atomic.Pointer[tableChunk], (pages+chunkPages-1)/chunkPages)}
}

// put sets the location of a page. Location 0 makes the page zero.
func (t *table) put(page uint64, l location) {
	slot := &t.chunks[page/chunkPages]
	c := slot.Load()
	if c == nil {
		if l == 0 {
			return
		}
		c = new(tableChunk)
		if !slot.CompareAndSwap(nil, c) {
			c = slot.Load()
		}
	}
	if all := c.all.Load(); all != nil {
		all[page%chunkPages].Store(uint64(l))
		return
	}
	c.putFew(page%chunkPages, l)
}

func (c *tableChunk) putFew(page uint64, l location) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if all := c.all.Load(); all != nil { // another lane allocated the array
		all[page].Store(uint64(l))
		return
	}
	i, found := len(c.few), false
	if i > 0 && page <= c.few[i-1].page() { // pages mostly come in order
		i, found = slices.BinarySearchFunc(c.few, page, func(p packed, page uint64) int { return cmp.Compare(p.page(), page) })
	}
	switch {
	case found && l == 0:
		c.few = slices.Delete(c.few, i, i+1)
	case found:
		c.few[i] = pack(page, l)
	case l == 0:
	case len(c.few) < fewPages:
		c.few = slices.Insert(c.few, i, pack(page, l))
	default:
		all := new([chunkPages]atomic.Uint64)
		for _, p := range c.few {
			all[p.page()].Store(uint64(p.location()))
		}
		all[page].Store(uint64(l))
		c.few = nil
		c.all.Store(all)
	}
}

// entry is a page of a chunk and its location.
type entry struct {
	page uint32 // within the chunk
	loc  location
}

// entries appends the entries of chunk n to dst, in the order of pages.
func (t *table) entries(dst []entry, n int) []entry {
	c := t.chunks[n].Load()
	if c == nil {
		return dst
	}
	if all := c.all.Load(); all != nil {
		return appendAll(dst, all)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if all := c.all.Load(); all != nil {
		return appendAll(dst, all)
	}
	for _, p := range c.few {
		dst = append(dst, entry{uint32(p.page()), p.location()})
	}
	return dst
}

func appendAll(dst []entry, all *[chunkPages]atomic.Uint64) []entry {
	for i := range all {
		if l := location(all[i].Load()); l != 0 {
			dst = append(dst, entry{uint32(i), l})
		}
	}
	return dst
}

// byExtent sorts entries by extent and slot, and calls f with the run of entries of each
// extent.
func byExtent(entries []entry, f func(run []entry) error) error {
	// Pages are mostly stored in order, so the entries are mostly sorted.
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
