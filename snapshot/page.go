package snapshot

import (
	"context"
	"fmt"
	"slices"

	"github.com/vmferry/vmferry/guest"
)

// Page reads the page at offset of b into dst, which has the page size. It looks the page
// up in the index and reads its extent, which it caches for other pages: see
// [OpenOptions]. Several goroutines may call Page. Calls read different extents
// concurrently, and calls for one extent share its read.
func (r *Reader) Page(ctx context.Context, b *guest.Block, offset uint64, dst []byte) error {
	if err := r.layout.CheckOffset(b, offset); err != nil {
		return err
	}
	if len(dst) != r.layout.PageSize {
		return fmt.Errorf("snapshot: buffer of %d bytes for a page of %d bytes", len(dst), r.layout.PageSize)
	}
	if err := r.calls.begin(); err != nil {
		return err
	}
	defer r.calls.end()
	l, err := r.locate(ctx, b, offset/uint64(r.layout.PageSize))
	if err != nil {
		return err
	}
	if l == 0 {
		clear(dst)
		return nil
	}
	e, err := r.extent(ctx, l.extent())
	if err != nil {
		return err
	}
	if int(e.block) != b.Index || l.slot() >= int(e.count) {
		return corrupt(r.index.name, "page at %#x of RAM block %q has slot %d of an extent with %d pages of block %d", offset, b.Name, l.slot(), e.count, e.block)
	}
	dec := r.decoders.Get().(*decoder)
	defer r.decoders.Put(dec)
	x, err := r.extents.get(ctx, l.extent(), func() (*extentData, int64, error) { return r.loadExtent(ctx, dec, e) })
	if err != nil {
		return err
	}
	p, err := dec.page(x, l.slot(), dst)
	if err != nil {
		return corrupt(r.pages[e.object].Name, "extent at %d: %v", e.offset, err)
	}
	copy(dst, p)
	return nil
}

// locate returns the location of a page of b, or 0 for a zero page.
func (r *Reader) locate(ctx context.Context, b *guest.Block, page uint64) (location, error) {
	key := chunkKey{b.Index, uint32(page / chunkPages)}
	c, err := r.chunks.get(ctx, key, func() (*chunk, int64, error) {
		c, err := r.index.loadChunk(ctx, key.block, key.chunk)
		if c == nil {
			return nil, 0, err
		}
		return c, int64(len(c.b)), err
	})
	if c == nil || err != nil {
		return 0, err
	}
	return c.find(uint32(page % chunkPages)), nil
}

// loadExtent reads an extent into new memory, which the cache keeps.
func (r *Reader) loadExtent(ctx context.Context, dec *decoder, e extent) (*extentData, int64, error) {
	payload, err := r.payload(ctx, e, nil)
	if err != nil {
		return nil, 0, err
	}
	x, err := dec.parse(e, payload)
	if err != nil {
		return nil, 0, corrupt(r.pages[e.object].Name, "extent at %d: %v", e.offset, err)
	}
	x.starts = slices.Clone(x.starts)
	if e.codec == codecZstd {
		dec.raw = nil // the extent keeps this memory
	}
	return &x, int64(cap(x.payload) + 8*cap(x.starts)), nil
}
