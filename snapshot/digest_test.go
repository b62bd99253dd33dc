package snapshot_test

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store/storetest"
)

// changed is a snapshot of raw pages of which an object was changed together
// with all checksums, but not its digest.
func changed(t *testing.T, name string) *storetest.Bucket {
	t.Helper()
	b, _ := small(t, snapshot.StoreRaw, 1024)
	x := takeApart(b.Bytes("index"))
	switch name {
	case "index": // two pages change places
		s := x.segments[ramChunk]
		a := bytes.Clone(s[6:14])
		copy(s[6:14], s[14:22])
		copy(s[14:22], a)
	case "pages-000000":
		pages := b.Bytes(name)
		pages[3] ^= 0x55
		b.Put(name, pages)
		line := x.segments[tablePart]
		sum := crc32.Checksum(pages[:3*1024], crc32.MakeTable(crc32.Castagnoli))
		line[20], line[21], line[22], line[23] = byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)
	}
	if name == "index" {
		b.Put("index", x.bytes(false))
		return b
	}
	f := newForger(t, b)
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

func TestSource_ObjectsChangedWithTheirChecksumsAreFoundBeforeItsEnd(t *testing.T) {
	for _, name := range []string{"index", "pages-000000"} {
		t.Run(name, func(t *testing.T) {
			b := changed(t, name)
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
			wantCorrupt(t, changed(t, name), "verified")
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
