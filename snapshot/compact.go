package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/store"
)

// compact rewrites every page object of which more than a quarter is superseded.
// Afterwards at most a quarter of all page objects is superseded. No page object is
// committed yet: compact reads sealed objects and aborts them, so an object store
// uploads only current pages, and each once. It moves deflated pages unchanged. With
// Options.MaxSize it works in steps, each of which fits below the bound together with
// the existing objects.
func (w *Writer) compact(ctx context.Context) error {
	for {
		if err := w.sealRest(ctx); err != nil { // also those of the last rewrite
			return err
		}
		rewrite, all, err := w.wasteful(ctx)
		if err != nil || len(rewrite) == 0 {
			return err
		}
		if err := w.seals.Wait(); err != nil { // only sealed objects can be read
			return err
		}
		if err := w.rewrite(ctx, rewrite); err != nil {
			return fmt.Errorf("snapshot: compacting: %w", err)
		}
		if all {
			return w.sealRest(ctx)
		}
	}
}

// rewrite moves the current pages of some objects to new objects and aborts the old
// ones.
func (w *Writer) rewrite(ctx context.Context, objects map[uint32]bool) error {
	c := &compactor{w: w, dec: newDecoder(w.layout.PageSize)}
	c.objects = newObjectCache(func(ctx context.Context, i uint32) (store.Object, error) { return w.objects[i].w.Open(ctx) })
	defer c.close()
	l, err := w.Lane()
	if err != nil {
		return err
	}
	c.lane = l.(*lane)
	c.lane.ctx = ctx
	var scratch []entry
	err = w.eachChunk(ctx, &scratch, func(block, n int) error {
		moving := scratch[:0]
		for _, e := range scratch {
			if objects[w.extents[e.loc.extent()].object] {
				moving = append(moving, e)
			}
		}
		return byExtent(moving, func(run []entry) error {
			return c.move(ctx, w.layout.Blocks[block], n, run)
		})
	})
	if closeErr := c.lane.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := c.objects.close(); err != nil { // close the objects before aborting them
		return err
	}
	for index := range objects {
		if err := w.remove(ctx, w.objects[index]); err != nil {
			return err
		}
	}
	return nil
}

// wasteful returns the objects of which more than a quarter is superseded. If moving
// all of them would exceed Options.MaxSize, it returns those with the fewest current
// bytes, and all is false.
func (w *Writer) wasteful(ctx context.Context) (rewrite map[uint32]bool, all bool, err error) {
	live := make([]uint8, len(w.extents))
	var scratch []entry
	err = w.eachChunk(ctx, &scratch, func(int, int) error {
		for _, e := range scratch {
			live[e.loc.extent()]++
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	dead := make([]uint64, len(w.objects))
	for i, e := range w.extents {
		if e.count > 0 {
			dead[e.object] += uint64(e.length) * uint64(e.count-live[i]) / uint64(e.count)
		}
	}
	var wasteful []*pageObject
	for i, n := range dead {
		if o := w.objects[i]; !o.gone && n*4 > uint64(o.info.extentBytes(newestVersion)) {
			wasteful = append(wasteful, o)
		}
	}
	current := func(o *pageObject) int64 { return o.info.extentBytes(newestVersion) - int64(dead[o.index]) }
	slices.SortFunc(wasteful, func(a, b *pageObject) int { return cmp.Compare(current(a), current(b)) })
	rewrite = map[uint32]bool{}
	free := int64(math.MaxInt64)
	if w.opts.MaxSize > 0 {
		free = w.opts.MaxSize - w.stored.Load()
	}
	for _, o := range wasteful {
		// An eighth more covers the lengths of slots and rounding errors.
		if free -= current(o) + current(o)/8 + partsLen(o.info.Parts); free < 0 && len(rewrite) > 0 {
			break
		}
		rewrite[o.index] = true
	}
	return rewrite, len(rewrite) == len(wasteful), nil
}

type compactor struct {
	w       *Writer
	dec     *decoder
	lane    *lane
	objects *objectCache
	payload []byte
	offsets []uint64
	lengths []uint32
	data    []byte
}

func (c *compactor) close() {
	c.dec.close()
	c.objects.close()
}

// move stores a run of pages of one extent in the compactor's lane.
func (c *compactor) move(ctx context.Context, b *guest.Block, chunk int, run []entry) error {
	e := c.w.extents[run[0].loc.extent()]
	payload, err := c.read(ctx, e)
	if err != nil {
		return err
	}
	x, err := c.dec.parse(e, payload)
	if err != nil {
		return err
	}
	size := uint64(c.w.layout.PageSize)
	c.offsets, c.lengths, c.data = c.offsets[:0], c.lengths[:0], c.data[:0]
	for _, en := range run {
		c.offsets = append(c.offsets, (uint64(chunk)*chunkPages+uint64(en.page))*size)
		if x.codec == codecDeflate {
			d := x.deflated(en.loc.slot())
			c.lengths = append(c.lengths, uint32(len(d)))
			c.data = append(c.data, d...)
		}
	}
	if x.codec == codecDeflate {
		return c.lane.PutDeflated(b, c.offsets, c.lengths, c.data)
	}
	pages, err := c.lane.Pages(b, c.offsets)
	if err != nil {
		return err
	}
	for i, en := range run {
		page, err := c.dec.page(&x, en.loc.slot(), nil)
		if err != nil {
			return err
		}
		copy(pages[i], page)
	}
	return c.lane.Commit()
}

func (c *compactor) read(ctx context.Context, e extent) ([]byte, error) {
	o, err := c.objects.use(ctx, e.object)
	if err != nil {
		return nil, err
	}
	defer c.objects.release(o)
	c.payload = append(c.payload[:0], make([]byte, e.length)...)
	if err := store.ReadFull(ctx, o, c.payload, int64(e.offset)); err != nil {
		return nil, err
	}
	if sumOf(newestVersion, c.payload) != e.sum {
		return nil, corrupt(c.w.objects[e.object].info.Name, "the digest of the extent at %d is wrong when read back after writing", e.offset)
	}
	return c.payload, nil
}
