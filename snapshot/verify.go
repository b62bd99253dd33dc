package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/vmstate"
)

// checkRun looks for what a hostile index could say: pages of another block's
// extent, slots beyond it, or one slot as two pages.
func checkRun(b *guest.Block, e extent, run []entry) error {
	if int(e.block) != b.Index {
		return fmt.Errorf("it is of RAM block %d, but page %#x of block %d (%q) is said to be in it", e.block, run[0].page, b.Index, b.Name)
	}
	for i, en := range run {
		if en.loc.slot() >= int(e.count) {
			return fmt.Errorf("slot %d of %d pages", en.loc.slot(), e.count)
		}
		if i > 0 && en.loc == run[i-1].loc {
			return fmt.Errorf("slot %d is said to be two pages", en.loc.slot())
		}
	}
	return nil
}

// Verified is what Verify looked at.
type Verified struct {
	Objects int    `json:"objects"`
	Bytes   int64  `json:"bytes"`
	Pages   uint64 `json:"pages"`
}

// Verify reads everything: every object's digest, the index, every extent's
// checksum, and every page, which is decoded. progress, if not nil, is called
// with the bytes checked so far, at most the snapshot's: half of an object's bytes
// count when its digest is right, the rest when its pages can be decoded.
func (r *Reader) Verify(ctx context.Context, progress func(bytes int64)) (Verified, error) {
	var v Verified
	if progress == nil {
		progress = func(int64) {}
	}
	for _, info := range r.manifest.Objects {
		if err := r.verifyDigest(ctx, info); err != nil {
			return v, err
		}
		v.Objects++
		v.Bytes += info.Size
		progress(v.Bytes / 2)
	}
	head, err := r.Head()
	if err != nil {
		return v, err
	}
	if c, err := vmstate.ParseHead(head); err != nil || c.Machine != r.manifest.Machine.Type {
		return v, corrupt("head", "it is of machine %q, the manifest of %q", c.Machine, r.manifest.Machine.Type)
	}
	if _, err := r.States(); err != nil {
		return v, err
	}
	if err := r.verifyExtents(ctx); err != nil {
		return v, err
	}
	pages, err := r.verifyPages(ctx)
	v.Pages = pages
	if err == nil && pages != r.manifest.Totals.Pages {
		err = corrupt(r.index.name, "%d pages could be read (the manifest says %d)", pages, r.manifest.Totals.Pages)
	}
	if err == nil {
		progress(v.Bytes)
	}
	return v, err
}

func (r *Reader) verifyDigest(ctx context.Context, info ObjectInfo) error {
	o, err := r.open(info)
	if err != nil {
		return err
	}
	defer o.Close()
	sum := sha256.New()
	in := io.NewSectionReader(o, 0, o.Size())
	for {
		if err := contextErr(ctx); err != nil {
			return err
		}
		if _, err := io.CopyN(sum, in, 8<<20); err == io.EOF {
			break
		} else if err != nil {
			return fmt.Errorf("reading %s: %w", info.Name, err)
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != info.SHA256 {
		return corrupt(info.Name, "its digest is %s (the manifest says %s)", got, info.SHA256)
	}
	return nil
}

// verifyExtents checks that the extents of an object follow one another: what
// two of them share is pages of one in the other's words.
func (r *Reader) verifyExtents(ctx context.Context) error {
	ends := make([]uint64, len(r.pages))
	for n := range r.index.table {
		if err := contextErr(ctx); err != nil {
			return err
		}
		part, err := r.index.extentPart(n)
		if err != nil {
			return err
		}
		for i, e := range part {
			if e.offset < ends[e.object] {
				return corrupt(r.index.name, "extent %d begins at %d of %s, but the one before it ends at %d", n*tableExtents+i, e.offset, r.pages[e.object].Name, ends[e.object])
			}
			ends[e.object] = e.offset + uint64(e.length)
		}
	}
	return nil
}

// verifyPages decodes every page.
func (r *Reader) verifyPages(ctx context.Context) (uint64, error) {
	counts := make([]uint64, runtime.GOMAXPROCS(0))
	src := r.Source(SourceOptions{})
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
