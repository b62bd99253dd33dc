package snapshot

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/guest"
)

// memoryObject is an object in memory.
type memoryObject struct{ *bytes.Reader }

func (memoryObject) Close() error { return nil }

func (o memoryObject) ReadAt(_ context.Context, p []byte, offset int64) (int, error) {
	return o.Reader.ReadAt(p, offset)
}

// somePages are the entries of a chunk with n pages, at random.
func somePages(r *rand.Rand, n int) []entry {
	pages := r.Perm(chunkPages)[:n]
	slices.Sort(pages)
	var out []entry
	for i, p := range pages {
		out = append(out, entry{uint32(p), newLocation(uint64(i/128), i%128)})
	}
	return out
}

// writeTestIndex writes an index of one block per list of entries.
func writeTestIndex(t testing.TB, blocks ...[]entry) (*guest.Layout, []ObjectInfo, []byte) {
	t.Helper()
	var buf bytes.Buffer
	x := &indexWriter{w: func(p []byte) error { _, err := buf.Write(p); return err }}
	most := 0
	var infos []guest.Block
	for i, entries := range blocks {
		infos = append(infos, guest.Block{Name: string(rune('a' + i)), Length: chunkPages * 4096})
		most = max(most, len(entries))
	}
	extents := make([]extent, (most+127)/128)
	for i := range extents {
		extents[i] = extent{count: 128, codec: codecDeflate, length: 1000, offset: uint64(1000 * i)}
	}
	if err := x.extentTable(extents); err != nil {
		t.Fatal(err)
	}
	for i, entries := range blocks {
		if err := x.chunk(i, 0, entries); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := x.finish(); err != nil {
		t.Fatal(err)
	}
	l, err := guest.NewLayout(4096, infos)
	if err != nil {
		t.Fatal(err)
	}
	return l, []ObjectInfo{{Name: "pages-000000", Role: RolePages, Size: int64(1000*len(extents)) + partsLen(1), Parts: 1}}, buf.Bytes()
}

// openTestIndex opens an index of the newest version.
func openTestIndex(t testing.TB, b []byte, l *guest.Layout, objects []ObjectInfo) (*index, error) {
	t.Helper()
	dirAt := binary.BigEndian.Uint64(b[len(b)-footerLen+32:])
	return openIndex(t.Context(), memoryObject{bytes.NewReader(b)}, newestVersion, ObjectInfo{Name: "index", BLAKE3: digestOf(newestVersion, b[dirAt:])}, l, objects)
}

func TestChunk_FindsItsPagesAndNoOthers(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for _, n := range []int{1, 2, 100, sparseMax, sparseMax + 1, 5000, chunkPages - 1, chunkPages} {
		entries := somePages(r, n)
		l, objects, b := writeTestIndex(t, entries)
		x, err := openTestIndex(t, b, l, objects)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x.loadChunk(t.Context(), 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		if c.dense != (n > sparseMax) {
			t.Errorf("%d pages, dense: %v", n, c.dense)
		}
		want := make([]location, chunkPages)
		for _, e := range entries {
			want[e.page] = e.loc
		}
		for page := range uint32(chunkPages) {
			if got := c.find(page); got != want[page] {
				t.Fatalf("of %d pages, page %d is at %#x, want %#x", n, page, got, want[page])
			}
		}
		if diff := cmp.Diff(entries, c.entries(nil), cmp.AllowUnexported(entry{})); n < 6000 && diff != "" {
			t.Errorf("of %d pages (-want +got):\n%s", n, diff)
		}
	}
}

func TestIndex_IsEmptyWithoutPages(t *testing.T) {
	l, objects, b := writeTestIndex(t, nil)
	if len(b) != footerLen {
		t.Errorf("%d bytes, want those of a footer", len(b))
	}
	x, err := openTestIndex(t, b, l, objects)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := x.loadChunk(t.Context(), 0, 0); c != nil || err != nil {
		t.Errorf("a chunk %v, %v", c, err)
	}
}

func TestLocation_HasExtentAndSlot(t *testing.T) {
	for _, extent := range []uint64{0, 1, 1 << 20, maxExtents - 1} {
		for _, slot := range []int{0, 1, 127} {
			if l := newLocation(extent, slot); l == 0 || l.extent() != extent || l.slot() != slot {
				t.Errorf("extent %d slot %d became %#x: extent %d slot %d", extent, slot, uint64(l), l.extent(), l.slot())
			}
		}
	}
}
