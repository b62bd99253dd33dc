package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store/storetest"
)

// wantCorrupt opens and verifies a damaged snapshot.
func wantCorrupt(t *testing.T, b *storetest.Bucket, what string) {
	t.Helper()
	if err := verifyAll(b); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("%s: got %v, want ErrCorrupt", what, err)
	}
	if n := b.OpenObjects(); n != 0 {
		t.Errorf("%s: %d objects are still open", what, n)
	}
}

// readsRightOrNot reads a damaged snapshot without verifying it: what it gives
// is either right or an error that wraps ErrCorrupt.
func readsRightOrNot(t *testing.T, b *storetest.Bucket, m *model, what string) {
	t.Helper()
	r, err := snapshot.Open(t.Context(), b, snapshot.OpenOptions{})
	if err != nil {
		if !errors.Is(err, snapshot.ErrCorrupt) {
			t.Errorf("%s: opening: %v", what, err)
		}
		return
	}
	defer r.Close()
	meta := metaFor(m.layout)
	for name, read := range map[string]func(context.Context) ([]byte, error){"head": r.Head, "devices": r.Devices} {
		want := map[string][]byte{"head": meta.Head, "devices": meta.Devices}[name]
		if got, err := read(t.Context()); err == nil && !bytes.Equal(got, want) || err != nil && !errors.Is(err, snapshot.ErrCorrupt) {
			t.Errorf("%s: %s is %q, %v", what, name, got, err)
		}
	}
	page := make([]byte, m.layout.PageSize)
	for _, blk := range r.Layout().Blocks {
		for off := uint64(0); off < blk.Length; off += uint64(len(page)) {
			if err := r.Page(t.Context(), blk, off, page); err == nil && !bytes.Equal(page, m.page(blk, off)) || err != nil && !errors.Is(err, snapshot.ErrCorrupt) {
				t.Errorf("%s: the page at %#x of %s is another, or %v", what, off, blk.Name, err)
				return
			}
		}
	}
}

// flipStep is how many bytes lie between two that are changed: the race detector has
// enough of some.
var flipStep = map[bool]int{false: 1, true: 13}[raceEnabled]

func TestReader_EveryFlippedBitIsFound(t *testing.T) {
	eachVersion(t, func(t *testing.T, version int) {
		for n, store := range stores {
			t.Run(string(store), func(t *testing.T) {
				good, m := smallOf(t, version, store, 1024)
				if err := verifyAll(good); err != nil {
					t.Fatal(err)
				}
				step := flipStep
				if testing.Short() {
					step = 13
				}
				for _, name := range good.Names() {
					size := len(good.Bytes(name))
					for i := 0; i < size; i += step { // a bit of each byte, another for each store
						b := good.Clone()
						bit := (i + 2*n) % 8
						b.FlipBit(name, 8*i+bit)
						what := fmt.Sprintf("bit %d of byte %d of %s", bit, i, name)
						wantCorrupt(t, b, what)
						if i%4 == n {
							readsRightOrNot(t, b, m, what)
						}
					}
				}
			})
		}
	})
}

func TestReader_EveryTruncationAndExtensionIsFound(t *testing.T) {
	eachVersion(t, func(t *testing.T, version int) {
		good, m := smallOf(t, version, snapshot.StoreFast, 1024)
		for _, name := range good.Names() {
			size := len(good.Bytes(name))
			for n := 0; n < size; n += max(1, size/100) {
				b := good.Clone()
				b.Truncate(name, n)
				what := fmt.Sprintf("the first %d of %d bytes of %s", n, size, name)
				wantCorrupt(t, b, what)
				readsRightOrNot(t, b, m, what)
			}
			for _, extra := range [][]byte{{0}, {'\n'}, make([]byte, 64), good.Bytes(name)} {
				b := good.Clone()
				b.Extend(name, extra)
				what := fmt.Sprintf("%d bytes behind %s", len(extra), name)
				wantCorrupt(t, b, what)
				readsRightOrNot(t, b, m, what)
			}
		}
	})
}

func TestReader_MissingObjectIsFound(t *testing.T) {
	eachVersion(t, func(t *testing.T, version int) {
		good, m := smallOf(t, version, snapshot.StoreFast, 1024)
		for _, name := range good.Names() {
			b := good.Clone()
			b.Delete(name)
			if name == "manifest.json" {
				if _, err := snapshot.Open(t.Context(), b, snapshot.OpenOptions{}); !errors.Is(err, snapshot.ErrIncomplete) || errors.Is(err, snapshot.ErrCorrupt) {
					t.Errorf("without a manifest: %v, want ErrIncomplete", err)
				}
				continue
			}
			wantCorrupt(t, b, "without "+name)
			readsRightOrNot(t, b, m, "without "+name)
		}
	})
}

func TestReader_SwappedObjectsAreFound(t *testing.T) {
	eachVersion(t, func(t *testing.T, version int) {
		good, _ := smallOf(t, version, snapshot.StoreFast, 1024)
		names := good.Names()
		for i, a := range names {
			for _, b := range names[i+1:] {
				swapped := good.Clone()
				swapped.Put(a, good.Bytes(b))
				swapped.Put(b, good.Bytes(a))
				wantCorrupt(t, swapped, a+" in the place of "+b)
			}
		}
	})
}

func TestReader_ErrorOfTheBucketIsNotErrCorrupt(t *testing.T) {
	eachVersion(t, func(t *testing.T, version int) {
		boom := errors.New("boom")
		good, m := smallOf(t, version, snapshot.StoreFast, 1024)
		for _, op := range []storetest.Op{storetest.Open, storetest.Read} {
			for _, name := range good.Names() {
				b := good.Clone()
				b.Fail(op, name, boom)
				if err := verifyAll(b); !errors.Is(err, boom) || errors.Is(err, snapshot.ErrCorrupt) {
					t.Errorf("%s of %s: %v", op, name, err)
				}
				if n := b.OpenObjects(); n != 0 {
					t.Errorf("%s of %s: %d objects are still open", op, name, n)
				}
			}
		}
		b := good.Clone()
		r := open(t, b)
		b.Fail(storetest.Read, "pages-000000", boom)
		src := r.Source(snapshot.SourceOptions{})
		if err := src.Next(t.Context(), new(guest.Batch)); !errors.Is(err, boom) {
			t.Errorf("from a source: %v", err)
		}
		if err := r.ExportRaw(t.Context(), m.layout.Blocks[0], new(memoryFile)); !errors.Is(err, boom) {
			t.Errorf("from an export: %v", err)
		}
	})
}

func TestReader_ReadsNothingAfterClose(t *testing.T) {
	b, _ := small(t, snapshot.StoreFast, 1024)
	r, err := snapshot.Open(t.Context(), b, snapshot.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ram := r.Layout().Blocks[0]
	page := make([]byte, 1024)
	if err := r.Page(t.Context(), ram, 0, page); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for off := uint64(0); off < ram.Length; off += 1024 {
		if err := r.Page(t.Context(), ram, off, page); err == nil {
			t.Errorf("the page at %#x was read", off)
		}
	}
	if err := r.Source(snapshot.SourceOptions{}).Next(t.Context(), new(guest.Batch)); err == nil {
		t.Error("a source of it yields")
	}
	if n := b.OpenObjects(); n != 0 {
		t.Errorf("%d objects are open", n)
	}
}
