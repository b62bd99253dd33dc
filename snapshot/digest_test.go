package snapshot_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store/storetest"
)

// changed is a snapshot of raw pages of which an object was changed together with all sums
// of its parts, but not its digest in the manifest.
func changed(t *testing.T, version int, name string) *storetest.Bucket {
	t.Helper()
	b, _ := smallOf(t, version, snapshot.StoreRaw, 1024)
	f, x := newForger(t, b), takeApart(b.Bytes("index"))
	switch name {
	case "index": // two pages change places
		s := x.segments[ramChunk]
		a := bytes.Clone(s[6:14])
		copy(s[6:14], s[14:22])
		copy(s[14:22], a)
		b.Put("index", x.bytes(false))
		return b
	case "pages-000000":
		pages := b.Bytes(name)
		pages[3] ^= 0x55
		b.Put(name, pages)
		x.setSum(x.extentLine(tablePart, 0), pages[:3*1024])
	}
	f.set("index", x.bytes(false))
	f.sign(t)
	return b
}

// readAll takes all of a source and returns what ended it.
func readAll(t *testing.T, src guest.Source) (pages int, err error) {
	t.Helper()
	var b guest.Batch
	for {
		if err := src.Next(t.Context(), &b); err != nil {
			return pages, err
		}
		pages += len(b.Normal)
	}
}

// TestReader_ObjectsChangedWithTheirSumsAreFound: format 2 has digests of extents in the
// index, and the digest of the index is verified when it is opened. Verify also compares
// the list of parts.
func TestReader_ObjectsChangedWithTheirSumsAreFound(t *testing.T) {
	b := changed(t, 2, "index")
	if _, err := snapshot.Open(t.Context(), b, snapshot.OpenOptions{}); !errors.Is(err, snapshot.ErrCorrupt) || !strings.Contains(err.Error(), "index: the digest of its directory is") {
		t.Errorf("index: %v", err)
	}
	wantCorrupt(t, changed(t, 2, "pages-000000"), "pages whose digest in the index was changed too")
	b, _ = small(t, snapshot.StoreRaw, 1024)
	b.FlipBit("pages-000000", 30)
	r := open(t, b)
	for _, skip := range []bool{true, false} {
		if _, err := readAll(t, r.Source(snapshot.SourceOptions{SkipDigests: skip})); !errors.Is(err, snapshot.ErrCorrupt) || !strings.Contains(err.Error(), "pages-000000") {
			t.Errorf("SkipDigests %v: %v", skip, err)
		}
	}
}

// TestSource_ObjectsChangedWithTheirChecksumsAreFoundBeforeItsEnd is of format 1, where
// only the digest of a whole object finds them.
func TestSource_ObjectsChangedWithTheirChecksumsAreFoundBeforeItsEnd(t *testing.T) {
	for _, name := range []string{"index", "pages-000000"} {
		t.Run(name, func(t *testing.T) {
			b := changed(t, 1, name)
			r := open(t, b)
			if pages, err := readAll(t, r.Source(snapshot.SourceOptions{SkipDigests: true})); err != io.EOF || pages != 4 {
				t.Fatalf("%d pages, %v: a checksum is wrong, so that this test says nothing of digests", pages, err)
			}
			for range 2 {
				_, err := readAll(t, r.Source(snapshot.SourceOptions{}))
				if !errors.Is(err, snapshot.ErrCorrupt) || !strings.Contains(err.Error(), name+": its digest is") {
					t.Errorf("got %v, want an error that names %s", err, name)
				}
			}
			if r.DigestsVerified() {
				t.Error("the digests are said to be verified")
			}
			if err := r.ExportRaw(t.Context(), r.Layout().Blocks[0], new(memoryFile)); !errors.Is(err, snapshot.ErrCorrupt) {
				t.Errorf("export: %v", err)
			}
			wantCorrupt(t, changed(t, 1, name), "verified")
		})
	}
}

func TestSource_DigestsAreVerifiedAtItsEnd(t *testing.T) {
	b, _ := small(t, snapshot.StoreFast, 1024)
	r := open(t, b)
	if _, err := readAll(t, r.Source(snapshot.SourceOptions{SkipDigests: true})); err != io.EOF || r.DigestsVerified() {
		t.Errorf("without digests: %v, verified %v", err, r.DigestsVerified())
	}
	if _, err := readAll(t, r.Source(snapshot.SourceOptions{})); err != io.EOF || !r.DigestsVerified() {
		t.Errorf("%v, verified %v", err, r.DigestsVerified())
	}
	read := b.BytesRead("pages-000000")
	size := int64(len(b.Bytes("pages-000000")))
	if _, err := readAll(t, r.Source(snapshot.SourceOptions{})); err != io.EOF || b.BytesRead("pages-000000")-read > size {
		t.Errorf("a second source reads the object %d times over again, %v", (b.BytesRead("pages-000000")-read)/size, err)
	}
	r2 := open(t, b)
	if _, err := r2.Verify(t.Context(), nil); err != nil || !r2.DigestsVerified() {
		t.Errorf("Verify: %v, verified %v", err, r2.DigestsVerified())
	}
}

// TestReader_CloseEndsTheVerificationOfDigests closes it while a source is at work.
func TestReader_CloseEndsTheVerificationOfDigests(t *testing.T) {
	for range 20 {
		b, _, _ := rewritten(t, snapshot.StoreRaw, 0)
		r, err := snapshot.Open(t.Context(), b, snapshot.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		src := r.Source(snapshot.SourceOptions{})
		if err := src.Next(t.Context(), new(guest.Batch)); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil || b.OpenObjects() != 0 {
			t.Fatalf("%v, %d objects are open", err, b.OpenObjects())
		}
		if err := src.Next(t.Context(), new(guest.Batch)); err == nil || err == io.EOF {
			t.Errorf("after Close: %v", err)
		}
	}
}
