package snapshot_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store/storetest"
	"github.com/vmferry/vmferry/vmstate"
)

// exported keeps a machine at random, without device states, which have no
// place in an export.
func exported(t *testing.T, l *guest.Layout) (*snapshot.Reader, *model, snapshot.Meta) {
	t.Helper()
	bucket := storetest.NewBucket()
	w := create(t, bucket, l, snapshot.Options{ObjectSize: 100_000})
	m := newModel(l)
	lane := openLane(t, w)
	r := seeded("exported")
	for _, b := range l.Blocks {
		n := min(100, int(l.Pages(b))/2)
		for at := range slices.Chunk(spread(r, l, b, n), l.PacketPages()) {
			m.put(t, lane, b, fillPages(r, l.PageSize, len(at)), at...)
		}
	}
	last := l.Blocks[0].Length - uint64(l.PageSize)
	m.put(t, lane, l.Blocks[0], fillPages(r, l.PageSize, 2), 0, last)
	if err := lane.Close(); err != nil {
		t.Fatal(err)
	}
	meta := metaFor(l)
	meta.States = nil
	if _, err := w.Finish(t.Context(), meta); err != nil {
		t.Fatal(err)
	}
	return open(t, bucket), m, meta
}

func file(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "export"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestExportRaw_IsTheBlockByteForByte(t *testing.T) {
	r, m, _ := exported(t, pcLayout(t, 4096))
	for _, b := range r.Layout().Blocks {
		f := file(t)
		// An older export is in the way, larger than the new one.
		if _, err := f.Write(bytes.Repeat([]byte("old"), int(b.Length))); err != nil {
			t.Fatal(err)
		}
		if err := r.ExportRaw(t.Context(), b, f); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(f.Name())
		if err != nil || !bytes.Equal(got, m.mem[b.Index]) {
			t.Errorf("%s: %d bytes differ from the memory's %d (%v)", b.Name, len(got), b.Length, err)
		}
	}
}

func TestExportRaw_IsSparse(t *testing.T) {
	const size = 1 << 30
	l := newLayout(t, 4096, guest.Block{Name: "pc.ram", Length: size})
	bucket := storetest.NewBucket()
	w := create(t, bucket, l, snapshot.Options{})
	lane := openLane(t, w)
	pages, err := lane.Pages(l.Blocks[0], []uint64{size - 4096})
	if err != nil {
		t.Fatal(err)
	}
	pages[0][0] = 1
	if err := errors.Join(lane.Commit(), lane.Close()); err != nil {
		t.Fatal(err)
	}
	finish(t, w, l)
	f := file(t)
	r := open(t, bucket)
	if err := r.ExportRaw(t.Context(), r.Layout().Blocks[0], f); err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	used := info.Sys().(*syscall.Stat_t).Blocks * 512
	if info.Size() != size || used > 1<<20 {
		t.Errorf("%d bytes that take %d, want %d that take next to nothing", info.Size(), used, size)
	}
}

func TestExportRaw_MissingBlockIsRefused(t *testing.T) {
	r, _, _ := exported(t, pcLayout(t, 4096))
	for _, b := range []*guest.Block{{Name: "pc.rom", Length: 4096}, {Name: "pc.ram", Length: 4096}} {
		if err := r.ExportRaw(t.Context(), b, new(memoryFile)); err == nil || !strings.Contains(err.Error(), b.Name) {
			t.Errorf("%s of %d bytes: %v", b.Name, b.Length, err)
		}
	}
}

// parsed reads a mapped-ram file by QEMU's description of it, without the code
// that wrote it.
type parsed struct {
	b      []byte
	at     int
	blocks map[string][]byte
}

func (p *parsed) take(n int) []byte { p.at += n; return p.b[p.at-n : p.at] }
func (p *parsed) u8() byte          { return p.take(1)[0] }
func (p *parsed) u32() uint32       { return binary.BigEndian.Uint32(p.take(4)) }
func (p *parsed) u64() uint64       { return binary.BigEndian.Uint64(p.take(8)) }
func (p *parsed) name() string      { return string(p.take(int(p.u8()))) }

func (p *parsed) want(what string, got, want any) error {
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Errorf("at %#x: %s is %v, want %v", p.at, what, got, want)
	}
	return nil
}

func (p *parsed) ram(pageSize int, layout *guest.Layout) error {
	p.blocks = map[string][]byte{}
	err := errors.Join(
		p.want("section", p.u8(), 1), p.want("id", p.u32(), 1), p.want("idstr", p.name(), "ram"),
		p.want("instance", p.u32(), 0), p.want("version", p.u32(), 4), p.want("total", p.u64(), layout.Size()|4),
	)
	for _, b := range layout.Blocks {
		err = errors.Join(err, p.want("block", p.name(), b.Name), p.want("length", p.u64(), b.Length), p.block(pageSize, b))
	}
	return errors.Join(err,
		p.want("end of setup", p.u64(), 0x10), p.want("footer", p.u8(), 0x7e), p.want("id", p.u32(), 1),
		p.want("section", p.u8(), 3), p.want("id", p.u32(), 1), p.want("end of RAM", p.u64(), 0x10), p.want("footer", p.u8(), 0x7e), p.want("id", p.u32(), 1),
	)
}

func (p *parsed) block(pageSize int, b *guest.Block) error {
	err := errors.Join(p.want("header version", p.u32(), 1), p.want("page size", p.u64(), pageSize))
	bitmapAt, pagesAt := int(p.u64()), int(p.u64())
	pages := int(b.Length) / pageSize
	words := (pages + 63) / 64
	const mib = 1 << 20
	err = errors.Join(err, p.want("bitmap offset", bitmapAt, p.at), p.want("pages offset", pagesAt, (p.at+8*words+mib-1)/mib*mib))
	mem, zero := make([]byte, b.Length), make([]byte, pageSize)
	for i := range pages {
		word := binary.NativeEndian.Uint64(p.b[bitmapAt+8*(i/64):])
		page := p.b[pagesAt+i*pageSize:][:pageSize]
		switch set := word&(1<<(i%64)) != 0; {
		case set:
			copy(mem[i*pageSize:], page)
		case !bytes.Equal(page, zero):
			err = errors.Join(err, fmt.Errorf("page %d of %s is not in the bitmap but in the file", i, b.Name))
		}
	}
	p.blocks[b.Name] = mem
	p.at = pagesAt + int(b.Length)
	return err
}

func TestExportMappedRAM_IsWhatQEMUReads(t *testing.T) {
	for _, pageSize := range []int{4096, 64 << 10} {
		l := pcLayout(t, pageSize)
		r, m, meta := exported(t, l)
		f := file(t)
		if _, err := f.Write(bytes.Repeat([]byte("old"), 10<<20)); err != nil {
			t.Fatal(err)
		}
		if err := r.ExportMappedRAM(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		head, err := vmstate.WithCapability(meta.Head, "mapped-ram")
		if err != nil {
			t.Fatal(err)
		}
		p := &parsed{b: b}
		if !bytes.Equal(p.take(len(head)), head) {
			t.Error("the head is not the machine's with the capability mapped-ram")
		}
		if err := p.ram(pageSize, l); err != nil {
			t.Fatal(err)
		}
		for _, blk := range l.Blocks {
			if !bytes.Equal(p.blocks[blk.Name], m.mem[blk.Index]) {
				t.Errorf("%d KiB pages: %s differs", pageSize>>10, blk.Name)
			}
		}
		if rest := b[p.at:]; !bytes.Equal(rest, meta.Devices) {
			t.Errorf("%d bytes follow RAM, want the devices' %d", len(rest), len(meta.Devices))
		}
	}
}

func TestExportMappedRAM_HasAllChunksInItsBitmap(t *testing.T) {
	// Pages at the edges of the index's chunks, and a bitmap that ends inside
	// a word.
	pages := uint64(chunkPages + 70)
	l := newLayout(t, 1024, guest.Block{Name: "pc.ram", Length: pages * 1024})
	bucket := storetest.NewBucket()
	w := create(t, bucket, l, snapshot.Options{Store: snapshot.StoreRaw})
	lane := openLane(t, w)
	m := newModel(l)
	r := seeded("edges")
	for _, n := range []uint64{0, 63, 64, chunkPages - 1, chunkPages, pages - 1} {
		m.put(t, lane, l.Blocks[0], fillPages(r, 1024, 1), n*1024)
	}
	if err := lane.Close(); err != nil {
		t.Fatal(err)
	}
	meta := metaFor(l)
	meta.States = nil
	if _, err := w.Finish(t.Context(), meta); err != nil {
		t.Fatal(err)
	}
	f := file(t)
	if err := open(t, bucket).ExportMappedRAM(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	head, err := vmstate.WithCapability(meta.Head, "mapped-ram")
	if err != nil {
		t.Fatal(err)
	}
	p := &parsed{b: b, at: len(head)}
	if err := p.ram(1024, l); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.blocks["pc.ram"], m.mem[0]) {
		t.Error("the memory differs")
	}
}

func TestExportMappedRAM_RefusesDeviceStates(t *testing.T) {
	bucket, _ := small(t, snapshot.StoreFast, 4096)
	f := file(t)
	if err := open(t, bucket).ExportMappedRAM(t.Context(), f); err == nil || !strings.Contains(err.Error(), "device-state") {
		t.Errorf("got %v", err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("%d bytes were written (%v)", info.Size(), err)
	}
}

// fullFile fails at every write.
type fullFile struct{ *memoryFile }

func (fullFile) WriteAt([]byte, int64) (int, error) { return 0, storetest.ErrNoSpace }

func TestExport_WriteErrorIsReported(t *testing.T) {
	r, _, _ := exported(t, pcLayout(t, 4096))
	full := fullFile{new(memoryFile)}
	if err := r.ExportRaw(t.Context(), r.Layout().Blocks[0], full); !errors.Is(err, storetest.ErrNoSpace) {
		t.Errorf("raw: %v", err)
	}
	if err := r.ExportMappedRAM(t.Context(), full); !errors.Is(err, storetest.ErrNoSpace) {
		t.Errorf("mapped-ram: %v", err)
	}
}
