package snapshot_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/store/storetest"
)

// TestWriter_KeepsTheNewestWriteOfEachPage puts pages, deflated pages and zero pages
// into several lanes at random, over and over, and reads them back.
func TestWriter_KeepsTheNewestWriteOfEachPage(t *testing.T) {
	for _, store := range stores {
		for _, tt := range []struct{ pageSize, lanes int }{{1 << 10, 3}, {4 << 10, 1}, {4 << 10, 3}, {64 << 10, 2}} {
			t.Run(fmt.Sprintf("%s/%d KiB pages/%d lanes", store, tt.pageSize>>10, tt.lanes), func(t *testing.T) {
				l := pcLayout(t, tt.pageSize)
				bucket := storetest.NewBucket()
				m := newModel(l)
				fillAtRandom(t, bucket, m, store, tt.lanes)
				r := open(t, bucket)
				v, err := r.Verify(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				m.check(t, r)
				zero := (300 + 2 + 40) - m.pages()
				got := r.Manifest().Totals
				if v.Pages != m.pages() || got.Pages != m.pages() || got.Zero != zero {
					t.Errorf("%d pages verified, totals %+v; want %d pages and %d zero", v.Pages, got, m.pages(), zero)
				}
			})
		}
	}
}

func fillAtRandom(t *testing.T, bucket store.Bucket, m *model, store snapshot.Store, lanes int) {
	t.Helper()
	l := m.layout
	w := create(t, bucket, l, snapshot.Options{Store: store, ObjectSize: int64(40 * l.PageSize)})
	r := seeded(t.Name())
	var open []guest.Lane
	for range lanes {
		open = append(open, openLane(t, w))
	}
	for range 40 {
		lane := open[r.IntN(lanes)]
		b := l.Blocks[r.IntN(len(l.Blocks))]
		n := 1 + r.IntN(int(min(l.Pages(b), uint64(l.PacketPages()), 60)))
		offsets := spread(r, l, b, n)
		d, keeps := lane.(guest.DeflatedLane)
		switch kind := r.IntN(4); {
		case kind == 0:
			m.zero(t, lane, b, offsets...)
		case kind == 1 && keeps && d.KeepsDeflated():
			m.putDeflated(t, lane, b, fillPages(r, l.PageSize, n), offsets...)
		default:
			m.put(t, lane, b, fillPages(r, l.PageSize, n), offsets...)
		}
	}
	for _, lane := range open {
		if err := errors.Join(lane.Close(), lane.Close()); err != nil {
			t.Fatal(err)
		}
	}
	finish(t, w, l)
}

// TestWriter_PacketsThatEndWithinAnExtent puts packets of any length, some of whose pages
// are zero, so that a packet's pages belong to two extents or more.
func TestWriter_PacketsThatEndWithinAnExtent(t *testing.T) {
	for _, store := range stores {
		for _, pageSize := range []int{1 << 10, 4 << 10, 64 << 10} {
			t.Run(fmt.Sprintf("%s/%d KiB pages", store, pageSize>>10), func(t *testing.T) {
				l := newLayout(t, pageSize, guest.Block{Name: "pc.ram", Length: uint64(1200 * pageSize)}, guest.Block{Name: "vga.vram", Length: uint64(600 * pageSize)})
				bucket := storetest.NewBucket()
				w := create(t, bucket, l, snapshot.Options{Store: store})
				lane := openLane(t, w)
				m := newModel(l)
				r := seeded(t.Name())
				for range 30 {
					b := l.Blocks[r.IntN(8)/7]
					n := 1 + r.IntN(l.PacketPages())
					pages := fillPages(r, pageSize, n)
					for zero := r.IntN(n); zero < n; zero += 1 + r.IntN(n) {
						pages[zero] = make([]byte, pageSize)
					}
					m.put(t, lane, b, pages, spread(r, l, b, n)...)
				}
				if err := lane.Close(); err != nil {
					t.Fatal(err)
				}
				finish(t, w, l)
				m.check(t, open(t, bucket))
			})
		}
	}
}

func TestWriter_SequentialWrites(t *testing.T) {
	const size = 4096
	a, b := bytes.Repeat([]byte("a"), size), bytes.Repeat([]byte("b"), size)
	zero := make([]byte, size)
	type put func(t *testing.T, m *model, lane guest.Lane, block *guest.Block)
	data := func(p []byte) put {
		return func(t *testing.T, m *model, lane guest.Lane, block *guest.Block) {
			m.put(t, lane, block, [][]byte{p}, size)
		}
	}
	record := put(func(t *testing.T, m *model, lane guest.Lane, block *guest.Block) { m.zero(t, lane, block, size) })
	for _, tt := range []struct {
		name string
		puts []put
		kept uint64
	}{
		{"data after data", []put{data(a), data(b)}, 1},
		{"zero after data", []put{data(a), record}, 0},
		{"data after zero", []put{record, data(a)}, 1},
		{"data that is zero after data", []put{data(a), data(zero)}, 0},
		{"data, zero, data", []put{data(a), record, data(b)}, 1},
		{"zero alone", []put{record}, 0},
		{"data that is zero alone", []put{data(zero)}, 0},
	} {
		for _, store := range stores {
			for _, lanes := range []int{1, 2} {
				t.Run(fmt.Sprintf("%s/%s/%d lanes", tt.name, store, lanes), func(t *testing.T) {
					l := newLayout(t, size, guest.Block{Name: "pc.ram", Length: 4 * size})
					bucket := storetest.NewBucket()
					w := create(t, bucket, l, snapshot.Options{Store: store})
					m := newModel(l)
					in := []guest.Lane{openLane(t, w), openLane(t, w)}
					for i, p := range tt.puts {
						p(t, m, in[i%lanes], l.Blocks[0])
					}
					if err := errors.Join(in[0].Close(), in[1].Close()); err != nil {
						t.Fatal(err)
					}
					if got := finish(t, w, l).Totals; got.Pages != tt.kept || got.Zero != 4-tt.kept {
						t.Errorf("%d pages kept and %d zero, want %d", got.Pages, got.Zero, tt.kept)
					}
					m.check(t, open(t, bucket))
				})
			}
		}
	}
}

func TestWriter_ConcurrentLanes(t *testing.T) {
	const size, lanes = 4096, 4
	l := newLayout(t, size, guest.Block{Name: "pc.ram", Length: 1024 * size}, guest.Block{Name: "vga.vram", Length: 1024 * size})
	dir, err := store.CreateDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := create(t, dir, l, snapshot.Options{ObjectSize: 100 << 10})
	m := newModel(l)
	var wg sync.WaitGroup
	for i := range lanes {
		lane := openLane(t, w)
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 0))
			for n := i; n < 1024; n += lanes { // every lane has pages of its own
				b := l.Blocks[r.IntN(2)]
				m.put(t, lane, b, fillPages(r, size, 1), uint64(n*size))
				if r.IntN(4) == 0 {
					m.zero(t, lane, b, uint64(n*size))
				}
			}
			if err := lane.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	finish(t, w, l)
	if err := verifyAll(dir); err != nil {
		t.Fatal(err)
	}
	m.check(t, open(t, dir))
}

func TestReader_ReturnsHeadDevicesAndStates(t *testing.T) {
	bucket, m := small(t, snapshot.StoreFast, 4096)
	want := metaFor(m.layout)
	r := open(t, bucket)
	head, err1 := r.Head(t.Context())
	devices, err2 := r.Devices(t.Context())
	states, err3 := r.States(t.Context())
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(head, want.Head) || !bytes.Equal(devices, want.Devices) {
		t.Error("head or devices changed")
	}
	if diff := cmp.Diff(want.States, states); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want.Machine, r.Manifest().Machine); diff != "" {
		t.Errorf("machine (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(m.layout.Blocks, r.Layout().Blocks); diff != "" {
		t.Errorf("blocks (-want +got):\n%s", diff)
	}
	if n := r.Manifest().Bytes(); n <= 0 {
		t.Errorf("%d bytes", n)
	}
}

func TestWriter_MachineWithoutAPage(t *testing.T) {
	l := pcLayout(t, 4096)
	bucket := storetest.NewBucket()
	w := create(t, bucket, l, snapshot.Options{})
	meta := metaFor(l)
	meta.States = nil
	if _, err := w.Finish(t.Context(), meta); err != nil {
		t.Fatal(err)
	}
	if want := []string{"devices", "head", "index", "manifest.json"}; !slices.Equal(bucket.Names(), want) {
		t.Errorf("objects %q, want %q", bucket.Names(), want)
	}
	r := open(t, bucket)
	if _, err := r.Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if states, err := r.States(t.Context()); states != nil || err != nil {
		t.Errorf("states %v, %v", states, err)
	}
	newModel(l).check(t, r)
}

func TestSource_YieldsEachPageOnceAndZeroPagesOnRequest(t *testing.T) {
	l := pcLayout(t, 4096)
	bucket := storetest.NewBucket()
	m := newModel(l)
	fillAtRandom(t, bucket, m, snapshot.StoreFast, 2)
	r := open(t, bucket)
	for name, zero := range map[string]func(*guest.Block) bool{
		"none": nil, "all": func(*guest.Block) bool { return true }, "of one block": func(b *guest.Block) bool { return b.Name == "vga.vram" },
	} {
		src := r.Source(snapshot.SourceOptions{Zero: zero})
		var mu sync.Mutex
		seen := map[string]int{}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				drain(t, src, func(b *guest.Batch) {
					mu.Lock()
					defer mu.Unlock()
					if n := len(b.Normal) + len(b.Zero); n == 0 || n > l.PacketPages() || len(b.Data) != len(b.Normal) {
						t.Errorf("a batch of %d and %d pages with %d of data", len(b.Normal), len(b.Zero), len(b.Data))
					}
					for i, off := range b.Normal {
						if !bytes.Equal(b.Data[i], m.page(b.Block, off)) {
							t.Errorf("another page at %#x", off)
						}
						seen[fmt.Sprintf("%s %#x", b.Block.Name, off)]++
					}
					for _, off := range b.Zero {
						seen[fmt.Sprintf("%s %#x", b.Block.Name, off)]++
					}
				})
			})
		}
		wg.Wait()
		for _, b := range l.Blocks {
			for off := uint64(0); off < b.Length; off += 4096 {
				want := 1
				if bytes.Equal(m.page(b, off), make([]byte, 4096)) && (zero == nil || !zero(b)) {
					want = 0
				}
				if got := seen[fmt.Sprintf("%s %#x", b.Name, off)]; got != want {
					t.Errorf("%s: page %#x of %s came %d times, want %d", name, off, b.Name, got, want)
				}
			}
		}
		if err := src.Next(t.Context(), new(guest.Batch)); err != io.EOF {
			t.Errorf("%s: after the end: %v", name, err)
		}
	}
}

func TestSource_DeflatedPagesAreUnchanged(t *testing.T) {
	l := pcLayout(t, 4096)
	bucket := storetest.NewBucket()
	w := create(t, bucket, l, snapshot.Options{})
	lane := openLane(t, w)
	m := newModel(l)
	r := seeded("as they went in")
	ram := l.Blocks[0]
	offsets := spread(r, l, ram, 128)
	pages := fillPages(r, 4096, 128)
	m.putDeflated(t, lane, ram, pages, offsets...)
	if err := lane.Close(); err != nil {
		t.Fatal(err)
	}
	finish(t, w, l)
	reader := open(t, bucket)
	got := map[uint64][]byte{}
	b := guest.Batch{TakeDeflated: true}
	src := reader.Source(snapshot.SourceOptions{})
	for {
		err := src.Next(t.Context(), &b)
		if err == io.EOF {
			break
		}
		if err != nil || b.Form != guest.Deflated {
			t.Fatalf("form %d, %v", b.Form, err)
		}
		for i, off := range b.Normal {
			got[off] = bytes.Clone(b.Data[i])
		}
	}
	for i, off := range offsets {
		want := rawDeflate(t, pages[i])
		if len(want) >= 4096 {
			want = pages[i]
		}
		if !bytes.Equal(got[off], want) {
			t.Errorf("the page at %#x was recompressed", off)
		}
	}
	m.check(t, reader)
}
