package snapshot_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store/storetest"
)

// chunkPages is how many pages a chunk of the index covers.
const chunkPages = 1 << 16

// numbered keeps pages that hold their own number, at every step-th place of a
// block of four chunks.
func numbered(t *testing.T, step uint64) (*storetest.Bucket, *guest.Layout, uint64) {
	t.Helper()
	l := newLayout(t, 1024, guest.Block{Name: "pc.ram", Length: 4 * chunkPages * 1024})
	bucket := storetest.NewBucket()
	w := create(t, bucket, l, snapshot.Options{Store: snapshot.StoreRaw})
	lane := openLane(t, w)
	ram := l.Blocks[0]
	var n uint64
	var offsets []uint64
	flush := func() {
		pages, err := lane.Pages(ram, offsets)
		if err != nil {
			t.Fatal(err)
		}
		for i, off := range offsets {
			clear(pages[i])
			binary.BigEndian.PutUint64(pages[i], off+1)
		}
		if err := lane.Commit(); err != nil {
			t.Fatal(err)
		}
		n += uint64(len(offsets))
		offsets = offsets[:0]
	}
	for page := uint64(0); page < l.Pages(ram); page += step {
		if offsets = append(offsets, page*1024); len(offsets) == 128 {
			flush()
		}
	}
	flush()
	if err := lane.Close(); err != nil {
		t.Fatal(err)
	}
	finish(t, w, l)
	return bucket, l, n
}

func TestWriter_IndexCostsAtMost16BytesAPage(t *testing.T) {
	const lineOfChunk, lineOfTable, lastExtent, footer = 64, 64, 64, 64
	for _, step := range []uint64{chunkPages, 10_000, 100, 62, 60, 55, 33, 32, 31, 7} {
		bucket, l, n := numbered(t, step)
		size := uint64(len(bucket.Bytes("index")))
		parts := n/128/1024 + 1
		if limit := 16*n + 4*lineOfChunk + parts*lineOfTable + lastExtent + footer; size > limit {
			t.Errorf("every %d pages: %d bytes for %d pages (%.2f a page), at most %d", step, size, n, float64(size)/float64(n), limit)
		}
		r := open(t, bucket)
		if got := r.Manifest().Totals; got.IndexBytes != int64(size) || got.Pages != n || got.Zero != l.Pages(l.Blocks[0])-n {
			t.Errorf("every %d pages: totals %+v, want %d pages and an index of %d bytes", step, got, n, size)
		}
		checkNumbered(t, r, l, step)
	}
}

// checkNumbered looks pages up at the edges of chunks and of extents.
func checkNumbered(t *testing.T, r *snapshot.Reader, l *guest.Layout, step uint64) {
	t.Helper()
	ram := r.Layout().Blocks[0]
	last := l.Pages(ram) - 1
	page := make([]byte, 1024)
	for _, around := range []uint64{0, 511, 512, chunkPages - 1, chunkPages, 2*chunkPages - 1, 3 * chunkPages, last - 1, 127 * step % last, 128 * step % last} {
		for n := max(around, 1) - 1; n <= min(around+1, last); n++ {
			if err := r.Page(t.Context(), ram, n*1024, page); err != nil {
				t.Fatal(err)
			}
			want := make([]byte, 1024)
			if n%step == 0 {
				binary.BigEndian.PutUint64(want, n*1024+1)
			}
			if !bytes.Equal(page, want) {
				t.Errorf("every %d pages: page %d is another", step, n)
			}
		}
	}
}

func TestReader_ReadsTheIndexInRanges(t *testing.T) {
	const step = 5
	bucket, l, n := numbered(t, step)
	size := int64(len(bucket.Bytes("index")))
	read := func() int64 { return bucket.BytesRead("index") }
	before := read()
	r, err := snapshot.Open(t.Context(), bucket, snapshot.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	lines := (n/128 + 1024) / 1024 // of the extent table, and one for each chunk
	if got, want := read()-before, int64(64+64*(lines+4)); got != want {
		t.Errorf("opening reads %d bytes of the index, want the footer and the directory: %d", got, want)
	}
	page := make([]byte, 1024)
	lookup := func(n uint64) int64 {
		before := read()
		if err := r.Page(t.Context(), r.Layout().Blocks[0], n*1024, page); err != nil {
			t.Fatal(err)
		}
		return read() - before
	}
	chunk := int64(8192 + 256 + 8*(chunkPages/step+1))
	if got := lookup(step * 7000); got < chunk-8 || got > chunk+1024*64 {
		t.Errorf("the first lookup reads %d bytes, want a chunk and a part of the table: about %d", got, chunk+1024*64)
	}
	if got := lookup(step * 7001); got != 0 {
		t.Errorf("another in the same chunk reads %d bytes, want none", got)
	}
	if got := lookup(3*chunkPages + 2); got > chunk+1024*64 {
		t.Errorf("one in another chunk reads %d bytes of %d", got, size)
	}
	if l.Pages(l.Blocks[0]) != 4*chunkPages {
		t.Fatal("the test's machine has another size")
	}
}

func TestPage_RefusesOffsetsOutsideTheBlock(t *testing.T) {
	bucket, _ := small(t, snapshot.StoreFast, 4096)
	r := open(t, bucket)
	ram := r.Layout().Blocks[0]
	for name, err := range map[string]error{
		"an offset beyond the block": r.Page(t.Context(), ram, ram.Length, make([]byte, 4096)),
		"an offset within a page":    r.Page(t.Context(), ram, 17, make([]byte, 4096)),
		"room for half a page":       r.Page(t.Context(), ram, 0, make([]byte, 2048)),
		"room for two":               r.Page(t.Context(), ram, 0, make([]byte, 8192)),
	} {
		if err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestPage_ManyChunksInTurn(t *testing.T) {
	// More chunks than are kept in memory, each with one page.
	const chunks = 40
	l := newLayout(t, 1024, guest.Block{Name: "pc.ram", Length: chunks * chunkPages * 1024})
	bucket := storetest.NewBucket()
	w := create(t, bucket, l, snapshot.Options{Store: snapshot.StoreRaw})
	lane := openLane(t, w)
	for n := range uint64(chunks) {
		pages, err := lane.Pages(l.Blocks[0], []uint64{(n*chunkPages + n) * 1024})
		if err != nil {
			t.Fatal(err)
		}
		copy(pages[0], fmt.Sprintf("page of chunk %d", n))
		if err := lane.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if err := lane.Close(); err != nil {
		t.Fatal(err)
	}
	finish(t, w, l)
	r := open(t, bucket)
	page := make([]byte, 1024)
	for range 2 {
		for n := range uint64(chunks) {
			if err := r.Page(t.Context(), r.Layout().Blocks[0], (n*chunkPages+n)*1024, page); err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("page of chunk %d\x00", n); !bytes.HasPrefix(page, []byte(want)) {
				t.Errorf("got %q, want %q", page[:20], want)
			}
		}
	}
}
