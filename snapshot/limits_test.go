package snapshot_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store/storetest"
)

// mostOpen is how many objects a reader may have open at once: 64 of pages, the
// index, and those that its goroutines are at.
const mostOpen = 64 + 1 + 8

// TestSnapshot_HundredTiBAreWrittenAndRead has as many objects as 100 TiB
// of pages: what is 64 MiB there is a byte here.
func TestSnapshot_HundredTiBAreWrittenAndRead(t *testing.T) {
	const bytesOfPages = (100 << 40) / (64 << 20)
	l := newLayout(t, 4096, guest.Block{Name: "ram0", Length: 60 << 40}, guest.Block{Name: "ram1", Length: 40 << 40})
	bucket := storetest.NewBucket()
	w := create(t, bucket, l, snapshot.Options{ObjectSize: 1})
	lanes := []guest.DeflatedLane{openLane(t, w).(guest.DeflatedLane), openLane(t, w).(guest.DeflatedLane)}
	r := seeded("100 TiB")
	page := make([]byte, 4096)
	for i := range 200 { // which do not shrink
		page[i] = byte(r.Uint32())
	}
	want := map[[2]uint64]byte{}
	for n := 0; w.Bytes() < bytesOfPages; n++ {
		b := l.Blocks[n/len(lanes)%2] // an extent ends where the block changes
		off := r.Uint64N(l.Pages(b)) * 4096
		page[0] = byte(1 + n%250)
		z := rawDeflateCached(t, page)
		if err := lanes[n%len(lanes)].PutDeflated(b, []uint64{off}, []uint32{uint32(len(z))}, z); err != nil {
			t.Fatal(err)
		}
		want[[2]uint64{uint64(b.Index), off}] = page[0]
	}
	for _, lane := range lanes {
		if err := lane.Close(); err != nil {
			t.Fatal(err)
		}
	}
	m := finish(t, w, l)
	if n := len(m.Objects); n < 3000 || n > 10_000 {
		t.Errorf("%d objects, want some thousand", n)
	}
	if n := len(bucket.Bytes("manifest.json")); n > 2<<20 {
		t.Errorf("the manifest has %d bytes", n)
	}
	reader := open(t, bucket)
	if v, err := reader.Verify(t.Context(), nil); err != nil || v.Pages != uint64(len(want)) {
		t.Fatalf("verified %d pages of %d, %v", v.Pages, len(want), err)
	}
	got, most := 0, 0
	drain(t, reader.Source(snapshot.SourceOptions{}), func(b *guest.Batch) {
		for i, off := range b.Normal {
			if value := want[[2]uint64{uint64(b.Block.Index), off}]; value == 0 || b.Data[i][0] != value {
				t.Fatalf("the page at %#x of %s begins with %d, want %d", off, b.Block.Name, b.Data[i][0], value)
			}
			got++
		}
		most = max(most, bucket.OpenObjects())
	})
	if got != len(want) {
		t.Errorf("the source yields %d pages of %d", got, len(want))
	}
	n := 0
	for at, value := range want {
		if err := reader.Page(t.Context(), reader.Layout().Blocks[at[0]], at[1], page); err != nil || page[0] != value {
			t.Fatalf("page %#x of block %d: %d, %v", at[1], at[0], page[0], err)
		}
		if n++; n == 200 {
			break
		}
	}
	if most = max(most, bucket.OpenObjects()); most > mostOpen {
		t.Errorf("%d objects were open at once", most)
	}
}

var deflated = map[byte][]byte{}

// rawDeflateCached deflates pages that differ in their first byte only.
func rawDeflateCached(t testing.TB, page []byte) []byte {
	if deflated[page[0]] == nil {
		deflated[page[0]] = rawDeflate(t, page)
	}
	return deflated[page[0]]
}

// TestReader_FewObjectsAreOpenAtOnce reads from many goroutines.
func TestReader_FewObjectsAreOpenAtOnce(t *testing.T) {
	l := newLayout(t, 1024, guest.Block{Name: "pc.ram", Length: 400 * 128 * 1024})
	bucket := storetest.NewBucket()
	w := create(t, bucket, l, snapshot.Options{ObjectSize: 1})
	lane := openLane(t, w).(guest.DeflatedLane)
	page := make([]byte, 1024)
	page[5] = 1
	z := rawDeflate(t, page)
	for n := range 400 {
		offsets, lengths := make([]uint64, 128), make([]uint32, 128)
		for i := range offsets {
			offsets[i], lengths[i] = uint64(n*128+i)*1024, uint32(len(z))
		}
		if err := lane.PutDeflated(l.Blocks[0], offsets, lengths, bytes.Repeat(z, 128)); err != nil {
			t.Fatal(err)
		}
	}
	if err := lane.Close(); err != nil {
		t.Fatal(err)
	}
	finish(t, w, l)
	if n := bucket.OpenObjects(); n != 0 {
		t.Errorf("Finish leaves %d objects open", n)
	}
	r := open(t, bucket)
	errs := make(chan error, 8)
	for g := range 8 {
		go func() {
			rnd, page := rand.New(rand.NewPCG(uint64(g), 1)), make([]byte, 1024)
			for range 500 {
				if err := r.Page(t.Context(), r.Layout().Blocks[0], rnd.Uint64N(400*128)*1024, page); err != nil || page[5] != 1 {
					errs <- errors.Join(err, errors.New("a page could not be read, or is another"))
					return
				}
			}
			errs <- nil
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := bucket.OpenObjects(); n > mostOpen {
		t.Errorf("%d objects are open", n)
	}
	if _, err := r.Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil || bucket.OpenObjects() != 0 {
		t.Errorf("after Close %d objects are open, %v", bucket.OpenObjects(), err)
	}
}

func TestWriter_InvalidNamesAreRefused(t *testing.T) {
	w, err := snapshot.Create(t.Context(), storetest.NewBucket(), snapshot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = w.Setup(newLayout(t, 4096, guest.Block{Name: "pc.ram", Length: 4096}, guest.Block{Name: "vga\xff", Length: 4096}))
	if err == nil || !strings.Contains(err.Error(), `RAM block 1, "vga\xff", is not UTF-8`) {
		t.Errorf("Setup: %v", err)
	}
	for name, tt := range map[string]struct {
		change func(*snapshot.Meta)
		want   string
	}{
		"machine type":    {func(m *snapshot.Meta) { m.Machine.Type = "pc-\xff" }, `machine.type "pc-\xff" is not UTF-8`},
		"another machine": {func(m *snapshot.Meta) { m.Machine.Type = "pc-q35-7.2" }, `machine type is "pc-q35-10.0"`},
		"run state":       {func(m *snapshot.Meta) { m.Machine.RunState = "run\xfe" }, `machine.run_state "run\xfe" is not UTF-8`},
		"long run state":  {func(m *snapshot.Meta) { m.Machine.RunState = strings.Repeat("r", 1025) }, `machine.run_state has 1025 bytes`},
		"uuid":            {func(m *snapshot.Meta) { m.Machine.UUID = "0011" }, `machine.uuid "0011"`},
		"page size":       {func(m *snapshot.Meta) { m.Machine.PageSize = 2048 }, `pages`},
		"no head":         {func(m *snapshot.Meta) { m.Head = nil }, `head`},
		"states":          {func(m *snapshot.Meta) { m.States[0].ID = strings.Repeat("x", 5000) }, ``},
	} {
		t.Run(name, func(t *testing.T) {
			l := pcLayout(t, 4096)
			bucket := storetest.NewBucket()
			w := create(t, bucket, l, snapshot.Options{})
			meta := metaFor(l)
			tt.change(&meta)
			_, err := w.Finish(t.Context(), meta)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error that says %q", err, tt.want)
			}
			if bucket.Bytes("manifest.json") != nil {
				t.Error("there is a manifest")
			}
			if err := w.Abort(t.Context()); err != nil {
				t.Error(err)
			}
			wantNothing(t, bucket, name)
		})
	}
}

func TestWriter_SnapshotAboveItsBoundIsRefused(t *testing.T) {
	l := pcLayout(t, 4096)
	for _, bound := range []int64{1, 100_000, 300*4096 + 5000} {
		bucket := storetest.NewBucket()
		w := create(t, bucket, l, snapshot.Options{Store: snapshot.StoreRaw, MaxSize: bound, ObjectSize: 10_000})
		err := fillRAM(t, w, l)
		if err == nil {
			_, err = w.Finish(t.Context(), metaFor(l))
		}
		if !errors.Is(err, snapshot.ErrTooLarge) || !strings.Contains(err.Error(), "--max-size") || bucket.Written() > bound {
			t.Errorf("bound %d: %d bytes were written, %v", bound, bucket.Written(), err)
		}
		if err := w.Abort(t.Context()); err != nil {
			t.Error(err)
		}
		wantNothing(t, bucket, "above the bound")
	}
	bucket := storetest.NewBucket()
	w := create(t, bucket, l, snapshot.Options{Store: snapshot.StoreRaw, MaxSize: 300*4096 + 10_000, ObjectSize: 10_000})
	if err := fillRAM(t, w, l); err != nil {
		t.Fatal(err)
	}
	if m := finish(t, w, l); m.Bytes() > 300*4096+10_000 {
		t.Errorf("%d bytes", m.Bytes())
	}
}

// fillRAM fills the layout's main memory with pages that are not zero.
func fillRAM(t *testing.T, w *snapshot.Writer, l *guest.Layout) error {
	lane := openLane(t, w)
	for off := uint64(0); off < l.Blocks[0].Length; off += uint64(l.PageSize) {
		pages, err := lane.Pages(l.Blocks[0], []uint64{off})
		if err != nil {
			return err
		}
		binary.BigEndian.PutUint64(pages[0], off+1)
		if err := lane.Commit(); err != nil {
			return errors.Join(err, lane.Close())
		}
	}
	return lane.Close()
}

// TestWriter_RoundsWithoutAnEndStayBelowTheirBound sends the same pages again and
// again, eight times what fits.
func TestWriter_RoundsWithoutAnEndStayBelowTheirBound(t *testing.T) {
	for _, opts := range []snapshot.Options{
		{Store: snapshot.StoreRaw, ObjectSize: 32 << 10}, {Store: snapshot.StoreFast, ObjectSize: 32 << 10}, {Store: snapshot.StoreRaw},
	} {
		l := pcLayout(t, 1024)
		bucket := storetest.NewBucket()
		const bound = 3 << 20
		opts.MaxSize = bound
		w := create(t, bucket, l, opts)
		m, r := newModel(l), seeded("rounds")
		lanes := []guest.Lane{openLane(t, w), openLane(t, w)}
		text := make([]byte, 1024)
		for w.Bytes() < 8*bound {
			for _, b := range []*guest.Block{l.Blocks[0], l.Blocks[2]} {
				n := int(l.Pages(b))
				pages := make([][]byte, n)
				for i := range pages {
					pages[i] = make([]byte, 1024)
					for j := 0; j < 1000; j += 8 {
						binary.BigEndian.PutUint64(pages[i][j:], r.Uint64())
					}
				}
				offsets := spread(r, l, b, n)
				for len(offsets) > 0 {
					k := min(64, len(offsets))
					m.put(t, lanes[r.IntN(2)], b, pages[:k], offsets[:k]...)
					pages, offsets = pages[k:], offsets[k:]
				}
			}
			m.put(t, lanes[0], l.Blocks[1], [][]byte{append(text[:1023:1023], 1)}, 0)
		}
		for _, lane := range lanes {
			if err := lane.Close(); err != nil {
				t.Fatal(err)
			}
		}
		finish(t, w, l)
		reader := open(t, bucket)
		if _, err := reader.Verify(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		m.check(t, reader)
	}
}

// TestWriter_CompactionStaysBelowTheBound has half of each object superseded, and
// room for a part of what has to be moved.
func TestWriter_CompactionStaysBelowTheBound(t *testing.T) {
	const objects, pages = 10, 64
	l := newLayout(t, 1024, guest.Block{Name: "pc.ram", Length: objects * pages * 1024}, guest.Block{Name: "other", Length: 1024})
	for _, room := range []int64{pages * 1024, 200 << 10, 1 << 20} {
		bucket := storetest.NewBucket()
		const lists = 2 * objects * (40 + 32) // of the parts of the objects
		bound := int64((objects+objects/2)*pages*1024) + lists + room
		w := create(t, bucket, l, snapshot.Options{Store: snapshot.StoreRaw, ObjectSize: 1, MaxSize: bound})
		m, r := newModel(l), seeded("steps")
		lane := openLane(t, w)
		put := func(n int) {
			for i := range objects {
				var offsets []uint64
				for j := range n {
					offsets = append(offsets, uint64(i*pages+j)*1024)
				}
				full := make([][]byte, n)
				for j := range full {
					full[j] = make([]byte, 1024)
					binary.BigEndian.PutUint64(full[j], r.Uint64()|1)
				}
				m.put(t, lane, l.Blocks[0], full, offsets...)
				m.zero(t, lane, l.Blocks[1], 0)
			}
		}
		put(pages)
		put(pages / 2)
		if err := lane.Close(); err != nil {
			t.Fatal(err)
		}
		manifest := finish(t, w, l)
		if size := manifest.Bytes(); size > bound || manifest.Totals.Superseded*4 > manifest.Totals.Pages {
			t.Errorf("room %d: %d bytes, %d pages superseded", room, size, manifest.Totals.Superseded)
		}
		reader := open(t, bucket)
		if _, err := reader.Verify(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		m.check(t, reader)
	}
}
