package snapshot_test

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/store/storetest"
	"github.com/vmferry/vmferry/vmstate"
)

var stores = []snapshot.Store{snapshot.StoreFast, snapshot.StoreDense, snapshot.StoreZstd, snapshot.StoreRaw}

func newLayout(t testing.TB, pageSize int, blocks ...guest.Block) *guest.Layout {
	t.Helper()
	l, err := guest.NewLayout(pageSize, blocks)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// pcLayout is a small machine: its main memory is not a multiple of an extent.
func pcLayout(t testing.TB, pageSize int) *guest.Layout {
	size := uint64(pageSize)
	return newLayout(t, pageSize, guest.Block{Name: "pc.ram", Length: 300 * size}, guest.Block{Name: "pc.bios", Length: 2 * size}, guest.Block{Name: "vga.vram", Length: 40 * size, HugePage: 2 << 20})
}

func create(t testing.TB, b store.Bucket, l *guest.Layout, opts snapshot.Options) *snapshot.Writer {
	t.Helper()
	w, err := snapshot.Create(t.Context(), b, opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Setup(l); err != nil {
		t.Fatal(err)
	}
	return w
}

func openLane(t testing.TB, w guest.Sink) guest.Lane {
	t.Helper()
	l, err := w.Lane()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// metaFor is what a machine of the layout has besides its pages.
func metaFor(l *guest.Layout) snapshot.Meta {
	bits := uint32(0)
	for 1<<bits != l.PageSize {
		bits++
	}
	return snapshot.Meta{
		Head:    (&vmstate.Configuration{Machine: "pc-q35-10.0", PageBits: bits}).Head(),
		Devices: append([]byte{0, 6, 0, 0, 0, 2}, "{}"...),
		States: []devicestate.Packet{
			{Flags: devicestate.Flag, ID: "0000:00:05.0/vfio", Instance: 1, Data: []byte("state")},
			{Flags: devicestate.Flag, ID: "0000:00:06.0/vfio", Data: []byte("of another")},
		},
		Machine: snapshot.Machine{Type: "pc-q35-10.0", UUID: "00112233445566778899aabbccddeeff", PageSize: l.PageSize, Sync: vmstate.SyncPerSection, RunState: "running", QEMU: "10.0.13"},
	}
}

func finish(t testing.TB, w *snapshot.Writer, l *guest.Layout) *snapshot.Manifest {
	t.Helper()
	m, err := w.Finish(t.Context(), metaFor(l))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func open(t testing.TB, b store.Bucket) *snapshot.Reader {
	t.Helper()
	r, err := snapshot.Open(t.Context(), b, snapshot.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// model is a machine's memory as it should be.
type model struct {
	layout *guest.Layout
	mem    [][]byte
}

func newModel(l *guest.Layout) *model {
	m := &model{layout: l}
	for _, b := range l.Blocks {
		m.mem = append(m.mem, make([]byte, b.Length))
	}
	return m
}

func (m *model) page(b *guest.Block, off uint64) []byte {
	return m.mem[b.Index][off:][:m.layout.PageSize]
}

// put puts a page into a lane and into the model.
func (m *model) put(t testing.TB, lane guest.Lane, b *guest.Block, pages [][]byte, offsets ...uint64) {
	t.Helper()
	at, err := lane.Pages(b, offsets)
	if err != nil {
		t.Fatal(err)
	}
	for i, off := range offsets {
		copy(at[i], pages[i])
		copy(m.page(b, off), pages[i])
	}
	if err := lane.Commit(); err != nil {
		t.Fatal(err)
	}
}

// putDeflated is put for pages that come deflated.
func (m *model) putDeflated(t testing.TB, lane guest.Lane, b *guest.Block, pages [][]byte, offsets ...uint64) {
	t.Helper()
	var lengths []uint32
	var data []byte
	for i, off := range offsets {
		z := rawDeflate(t, pages[i])
		if len(z) >= m.layout.PageSize {
			z = pages[i]
		}
		lengths, data = append(lengths, uint32(len(z))), append(data, z...)
		copy(m.page(b, off), pages[i])
	}
	if err := lane.(guest.DeflatedLane).PutDeflated(b, offsets, lengths, data); err != nil {
		t.Fatal(err)
	}
}

func (m *model) zero(t testing.TB, lane guest.Lane, b *guest.Block, offsets ...uint64) {
	t.Helper()
	for _, off := range offsets {
		clear(m.page(b, off))
	}
	if err := lane.Zero(b, offsets); err != nil {
		t.Fatal(err)
	}
}

// pages returns how many pages are not zero.
func (m *model) pages() (n uint64) {
	for _, b := range m.layout.Blocks {
		for off := uint64(0); off < b.Length; off += uint64(m.layout.PageSize) {
			if !bytes.Equal(m.page(b, off), make([]byte, m.layout.PageSize)) {
				n++
			}
		}
	}
	return n
}

// check compares a snapshot with the model, page by page and as a source.
func (m *model) check(t testing.TB, r *snapshot.Reader) {
	t.Helper()
	page := make([]byte, m.layout.PageSize)
	for _, b := range r.Layout().Blocks {
		for off := uint64(0); off < b.Length; off += uint64(len(page)) {
			if err := r.Page(t.Context(), b, off, page); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(page, m.page(b, off)) {
				t.Fatalf("the page at %#x of %s is not the one put there last", off, b.Name)
			}
		}
	}
	got := newModel(r.Layout())
	drain(t, r.Source(snapshot.SourceOptions{}), func(b *guest.Batch) {
		for i, off := range b.Normal {
			copy(got.page(b.Block, off), b.Data[i])
		}
	})
	for i := range m.mem {
		if !bytes.Equal(m.mem[i], got.mem[i]) {
			t.Errorf("as a source, block %d differs", i)
		}
	}
}

// drain empties a source that has raw pages.
func drain(t testing.TB, src guest.Source, f func(*guest.Batch)) {
	t.Helper()
	var b guest.Batch
	for {
		err := src.Next(context.Background(), &b)
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		f(&b)
	}
}

// fillPage makes a page of one of several kinds.
func fillPage(r *rand.Rand, size int) []byte {
	p := make([]byte, size)
	switch r.IntN(3) {
	case 0: // does not shrink
		for i := 0; i < size; i += 8 {
			binary.LittleEndian.PutUint64(p[i:], r.Uint64())
		}
	case 1:
		for n := 0; n < size; {
			n += copy(p[n:], []string{"snapshot ", "extent ", "index ", "page "}[r.IntN(4)])
		}
	default:
		p[r.IntN(size)] = byte(1 + r.IntN(255))
	}
	return p
}

func fillPages(r *rand.Rand, size, n int) [][]byte {
	var out [][]byte
	for range n {
		out = append(out, fillPage(r, size))
	}
	return out
}

// spread gives n different offsets of a block.
func spread(r *rand.Rand, l *guest.Layout, b *guest.Block, n int) []uint64 {
	var out []uint64
	for _, page := range r.Perm(int(l.Pages(b)))[:n] {
		out = append(out, uint64(page*l.PageSize))
	}
	return out
}

func rawDeflate(t testing.TB, page []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := flate.NewWriter(&buf, 6)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(page)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func seeded(name string) *rand.Rand {
	var seed [32]byte
	copy(seed[:], name)
	return rand.New(rand.NewChaCha8(seed))
}

// small keeps a small machine and returns its bucket and its memory.
func small(t testing.TB, store snapshot.Store, pageSize int) (*storetest.Bucket, *model) {
	t.Helper()
	b := storetest.NewBucket()
	l := newLayout(t, pageSize, guest.Block{Name: "pc.ram", Length: uint64(20 * pageSize)}, guest.Block{Name: "vga.vram", Length: uint64(4 * pageSize)})
	w := create(t, b, l, snapshot.Options{Store: store, Tool: "vmferry test"})
	r := rand.New(rand.NewPCG(7, 7))
	m := newModel(l)
	lane := openLane(t, w)
	text := bytes.Repeat([]byte("text "), pageSize)[:pageSize]
	one := make([]byte, pageSize)
	one[17] = 1
	m.put(t, lane, l.Blocks[0], [][]byte{text, one, text}, spread(r, l, l.Blocks[0], 3)...)
	m.put(t, lane, l.Blocks[1], [][]byte{one}, uint64(pageSize))
	if err := lane.Close(); err != nil {
		t.Fatal(err)
	}
	finish(t, w, l)
	return b, m
}

// verifyAll opens a snapshot and verifies it.
func verifyAll(b store.Bucket) error {
	r, err := snapshot.Open(context.Background(), b, snapshot.OpenOptions{})
	if err != nil {
		return err
	}
	_, err = r.Verify(context.Background(), nil)
	return errors.Join(err, r.Close())
}
