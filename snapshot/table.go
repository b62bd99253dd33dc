package snapshot

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vmferry/vmferry/guest"
)

// chunkPages is how many pages of a block one chunk of the table, and of the
// index, covers: 256 MiB of 4 KiB pages.
const chunkPages = 1 << 16

// fewPages is how many pages a chunk keeps as a list before it gets an array of
// all its places. The array takes 512 KiB, so a source pays at least 36 KiB on
// the wire (9 bytes a page) for it.
const fewPages = 4096

// table says where each page of a block is kept. Its chunks are made when the
// first page in them is, and grow with what they hold: a large machine that is
// mostly zero stays small.
type table struct {
	pages  uint64
	chunks []atomic.Pointer[tableChunk]
}

// tableChunk is the locations of one chunk: a list of few, or an array of all.
type tableChunk struct {
	all atomic.Pointer[[chunkPages]atomic.Uint64]

	mu  sync.Mutex
	few []packed // in the order of pages; nil once there is an array
}

// packed is a page of a chunk in the upper 16 bits, its location in the rest.
type packed uint64

func pack(page uint64, l location) packed { return packed(page<<48 | uint64(l)) }
func (p packed) page() uint64             { return uint64(p >> 48) }
func (p packed) location() location       { return location(p & (1<<48 - 1)) }

func newTable(l *guest.Layout, b *guest.Block) *table {
	pages := l.Pages(b)
	return &table{pages: pages, chunks: make([]atomic.Pointer[tableChunk], (pages+chunkPages-1)/chunkPages)}
}

// put says where page is kept now.
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
	if all := c.all.Load(); all != nil { // made since put looked
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

// entry is a page of a chunk and where it is.
type entry struct {
	page uint32 // within the chunk
	loc  location
}

// entries appends what chunk number n holds, in the order of pages.
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
