package snapshot

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/store"
)

// checkRun checks a run of entries of one extent. A hostile index could name pages of
// another block's extent, slots beyond the extent, or one slot for two pages.
func checkRun(b *guest.Block, e extent, run []entry) error {
	if int(e.block) != b.Index {
		return fmt.Errorf("it belongs to RAM block %d, but the index has page %#x of block %d (%q) in it", e.block, run[0].page, b.Index, b.Name)
	}
	for i, en := range run {
		if en.loc.slot() >= int(e.count) {
			return fmt.Errorf("slot %d is beyond its %d pages", en.loc.slot(), e.count)
		}
		if i > 0 && en.loc == run[i-1].loc {
			return fmt.Errorf("the index has slot %d for two pages", en.loc.slot())
		}
	}
	return nil
}

// Verified counts the objects, bytes and pages that Verify verified.
type Verified struct {
	Objects int    `json:"objects"`
	Bytes   int64  `json:"bytes"`
	Pages   uint64 `json:"pages"`
}

// Verify verifies the whole snapshot: the digest of every object, the index, the sum of
// every extent, and every page, which it decodes. If progress is not nil, Verify calls it
// with the number of bytes verified so far, at most the size of the snapshot. Half of an
// object's bytes count after its digest, and the other half after all pages are decoded.
// Verify makes these calls one at a time. The error wraps ErrCorrupt if a check fails.
func (r *Reader) Verify(ctx context.Context, progress func(bytes int64)) (Verified, error) {
	var v Verified
	if err := r.calls.begin(); err != nil {
		return v, err
	}
	defer r.calls.end()
	if progress == nil {
		progress = func(int64) {}
	}
	if err := r.verifyObjects(ctx, &v, progress); err != nil {
		return v, err
	}
	if _, err := r.Head(ctx); err != nil {
		return v, err
	}
	if _, err := r.States(ctx); err != nil {
		return v, err
	}
	if err := r.verifyIndex(ctx); err != nil {
		return v, err
	}
	r.digests.ok.Store(true)
	pages, err := r.verifyPages(ctx)
	v.Pages = pages
	if err == nil && pages != r.manifest.Totals.Pages {
		err = corrupt(r.index.name, "%d pages were read (the manifest has %d)", pages, r.manifest.Totals.Pages)
	}
	if err == nil {
		progress(v.Bytes)
	}
	return v, err
}

// verifyObjects verifies the digests of all objects, several at a time.
func (r *Reader) verifyObjects(ctx context.Context, v *Verified, progress func(bytes int64)) error {
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(digestWorkers())
	var mu sync.Mutex
	for _, info := range r.manifest.Objects {
		if inner.Err() != nil {
			break
		}
		group.Go(func() error {
			if err := r.verifyDigest(inner, info); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			v.Objects++
			v.Bytes += info.Size
			progress(v.Bytes / 2)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return contextErr(ctx)
}

// verifyDigest verifies the digest of an object. That of an index of format 2 was verified
// when it was opened, and those of its segments are verified when they are loaded.
func (r *Reader) verifyDigest(ctx context.Context, info ObjectInfo) error {
	version := r.manifest.Version
	if version > version1 && info.Role == RoleIndex {
		return nil
	}
	o, err := openObject(ctx, r.bucket, info)
	if err != nil {
		return err
	}
	defer o.Close()
	if version > version1 && info.Role == RolePages {
		return r.verifyParts(ctx, o, info)
	}
	return compareDigest(ctx, version, o, info)
}

// verifyParts verifies the list of parts of an object, and every part.
func (r *Reader) verifyParts(ctx context.Context, o store.Object, info ObjectInfo) error {
	list := newPartsReader(o, info)
	limit := maxExtentLen(r.layout.PageSize)
	var buf []byte
	for {
		if err := contextErr(ctx); err != nil {
			return err
		}
		p, offset, ok, err := list.next(ctx)
		if err != nil || !ok {
			return err
		}
		if int64(p.length) > int64(limit) {
			return corrupt(info.Name, "a part of %d bytes at %d (at most %d)", p.length, offset, limit)
		}
		buf = slices.Grow(buf[:0], int(p.length))[:p.length]
		if err := store.ReadFull(ctx, o, buf, offset); err != nil {
			return fmt.Errorf("reading %s at %d: %w", info.Name, offset, err)
		}
		if sumOf(r.manifest.Version, buf) != p.sum {
			return corrupt(info.Name, "the digest of the part of %d bytes at %d is wrong", p.length, offset)
		}
	}
}

// verifyIndex checks that no two entries of the index use the same bytes. Otherwise a few
// bytes could claim to be a large memory.
func (r *Reader) verifyIndex(ctx context.Context) error {
	if err := r.verifyExtents(ctx); err != nil {
		return err
	}
	return r.verifySlots(ctx)
}

// verifyExtents checks that the extents of an object do not overlap and that their offsets
// ascend, and compares their sizes with the totals.
func (r *Reader) verifyExtents(ctx context.Context) error {
	ends := make([]uint64, len(r.pages))
	var bytes, slots uint64 // no overflow, because extents do not overlap
	for n := range r.index.table {
		if err := contextErr(ctx); err != nil {
			return err
		}
		part, err := r.index.extentPart(ctx, n)
		if err != nil {
			return err
		}
		for i, e := range part {
			if e.offset < ends[e.object] {
				return corrupt(r.index.name, "extent %d begins at %d of %s, but the previous extent ends at %d", n*tableExtents+i, e.offset, r.pages[e.object].Name, ends[e.object])
			}
			ends[e.object] = e.offset + uint64(e.length)
			bytes += uint64(e.length)
			slots += uint64(e.count)
		}
	}
	if t := r.manifest.Totals; slots < t.Pages || slots-t.Pages > t.Superseded {
		return corrupt(r.index.name, "the extents have %d slots (the manifest has %d pages and %d superseded pages)", slots, t.Pages, t.Superseded)
	}
	if bytes != uint64(r.manifest.Totals.PageBytes) {
		return corrupt(r.index.name, "the extents have %d bytes (the manifest has %d)", bytes, r.manifest.Totals.PageBytes)
	}
	return nil
}

// slotSet is a set of slots of an extent.
type slotSet [2]uint64

func (s *slotSet) add(slot int) (twice bool) {
	bit := uint64(1) << (slot % 64)
	twice = s[slot/64]&bit != 0
	s[slot/64] |= bit
	return twice
}

// verifySlots checks that the index has each slot of each extent for at most one page, and
// that each extent has a page. It takes 16 bytes of memory for each extent, half of the
// extent's entry in the index.
func (r *Reader) verifySlots(ctx context.Context) error {
	used := make([]slotSet, r.index.extents)
	var list []entry
	for block := range r.index.chunks {
		for _, s := range r.index.chunks[block] {
			if err := contextErr(ctx); err != nil {
				return err
			}
			c, err := r.index.loadChunk(ctx, block, s.first)
			if err != nil {
				return err
			}
			list = c.entries(list[:0])
			for _, en := range list {
				slot, n := en.loc.slot(), en.loc.extent()
				if slot >= extentPages(r.layout.PageSize) {
					return corrupt(r.index.name, "slot %d of extent %d (at most %d)", slot, n, extentPages(r.layout.PageSize)-1)
				}
				if used[n].add(slot) {
					return corrupt(r.index.name, "the index has slot %d of extent %d for two pages", slot, n)
				}
			}
		}
	}
	if n := slices.Index(used, slotSet{}); n >= 0 {
		return corrupt(r.index.name, "extent %d has no page", n)
	}
	return nil
}

// verifyPages decodes every page.
func (r *Reader) verifyPages(ctx context.Context) (uint64, error) {
	counts := make([]uint64, runtime.GOMAXPROCS(0))
	src := r.Source(SourceOptions{SkipDigests: true})
	group, ctx := errgroup.WithContext(ctx)
	for i := range counts {
		group.Go(func() error {
			var b guest.Batch
			for {
				switch err := src.Next(ctx, &b); {
				case err == io.EOF:
					return nil
				case err != nil:
					return err
				}
				counts[i] += uint64(len(b.Normal))
			}
		})
	}
	err := group.Wait()
	var pages uint64
	for _, n := range counts {
		pages += n
	}
	return pages, err
}
