package snapshot_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/store/storetest"
)

// TestReader_IndexWithSharedBytesIsRefused takes a snapshot of four
// chunks with a page each, whose slots are those of one extent.
func TestReader_IndexWithSharedBytesIsRefused(t *testing.T) {
	be := binary.BigEndian
	for _, tt := range []struct {
		name   string
		change func(x *forgedIndex, f *forger)
		keep   bool // offsets and lengths of the directory
		opens  bool // only Verify finds it
	}{
		{"chunks that share a segment", func(x *forgedIndex, _ *forger) {
			for i := 2; i < 5; i++ {
				copy(x.dir[i][8:], x.dir[1][8:])
				x.segments[i] = x.segments[1]
			}
		}, true, false},
		{"a segment that begins in the one before", func(x *forgedIndex, _ *forger) { be.PutUint64(x.dir[2][8:], be.Uint64(x.dir[2][8:])-1) }, true, false},
		{"bytes between segments", func(x *forgedIndex, _ *forger) { x.segments[1] = append(x.segments[1], 0) }, true, false},
		{"segments in another order", func(x *forgedIndex, _ *forger) {
			x.dir[2], x.dir[3] = x.dir[3], x.dir[2]
			x.segments[2], x.segments[3] = x.segments[3], x.segments[2]
		}, false, false},
		{"chunks that share a slot", func(x *forgedIndex, _ *forger) { copy(x.segments[3][2:], x.segments[1][2:]) }, false, true},
		{"an extent of which no slot is a page", func(x *forgedIndex, f *forger) {
			line := bytes.Clone(x.extentLine(0, 0))
			be.PutUint64(line[8:], 4*1024)
			line[7] = 1
			be.PutUint32(line[16:], 1024)
			x.setSum(line, make([]byte, 1024))
			x.segments[0] = append(x.segments[0], line...)
			be.PutUint32(x.dir[0][20:], 2)
			be.PutUint64(x.footer[16:], 2)
			f.set("pages-000000", append(f.extents("pages-000000"), make([]byte, 1024)...))
			totals := f.manifest["totals"].(map[string]any)
			totals["extents"], totals["page_bytes"], totals["superseded"] = 2, 5*1024, 1
		}, false, true},
		{"fewer bytes of pages than the totals say", func(_ *forgedIndex, f *forger) { f.manifest["totals"].(map[string]any)["page_bytes"] = 4000 }, false, true},
		{"more bytes of pages than there are", func(_ *forgedIndex, f *forger) { f.manifest["totals"].(map[string]any)["page_bytes"] = 5000 }, false, false},
		{"fewer superseded pages than there are", func(x *forgedIndex, f *forger) {
			x.segments, x.dir = x.segments[:4], x.dir[:4]
			be.PutUint64(x.footer[24:], 3)
			f.manifest["blocks"].([]any)[0].(map[string]any)["pages"] = 3
			totals := f.manifest["totals"].(map[string]any)
			totals["pages"], totals["zero"] = 3, 4*chunkPages-3
		}, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, _, _ := numbered(t, chunkPages)
			f := newForger(t, b)
			x := takeApart(b.Bytes("index"))
			if len(x.segments) != 5 || len(f.extents("pages-000000")) != 4*1024 {
				t.Fatalf("%d segments: the snapshot has another shape", len(x.segments))
			}
			tt.change(x, f)
			f.set("index", x.bytes(tt.keep))
			f.sign(t)
			_, err := snapshot.Open(t.Context(), b, snapshot.OpenOptions{})
			if tt.opens && err != nil || !tt.opens && !errors.Is(err, snapshot.ErrCorrupt) {
				t.Errorf("Open: %v", err)
			}
			if !tt.opens {
				return
			}
			if err := verifyAll(b); !errors.Is(err, snapshot.ErrCorrupt) {
				t.Errorf("Verify: %v", err)
			}
			if _, err := readAll(t, open(t, b).Source(snapshot.SourceOptions{})); !errors.Is(err, snapshot.ErrCorrupt) {
				t.Errorf("Source: %v", err)
			}
		})
	}
}

// TestOpen_PageObjectsWithOtherDataAreRefused: a sparse file costs nothing,
// but its digest takes as long as its size says.
func TestOpen_PageObjectsWithOtherDataAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name    string
		size    int64
		refused bool
	}{
		{"a quarter is superseded", 4 * 1024 / 3 * 4, false},
		{"half is superseded", 8 * 1024, true},
		{"as large as a file can be", 1<<63 - 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, _, _ := numbered(t, chunkPages)
			f := newForger(t, b)
			f.object("pages-000000")["size"] = tt.size
			f.sign(t)
			r, err := snapshot.Open(t.Context(), claiming{b, "pages-000000", tt.size, nil}, snapshot.OpenOptions{})
			if err == nil {
				defer r.Close()
			}
			if refused := errors.Is(err, snapshot.ErrCorrupt); refused != tt.refused || !refused && err != nil {
				t.Errorf("got %v", err)
			}
		})
	}
}

// claiming is a bucket with an object that is larger than it can be held:
// zeros, and then a tail. No more than most bytes of it can be read.
type claiming struct {
	*storetest.Bucket
	name string
	size int64
	tail []byte
}

type claimingObject struct{ claiming }

func (c claiming) Open(ctx context.Context, name string) (store.Object, error) {
	if name == c.name {
		return claimingObject{c}, nil
	}
	return c.Bucket.Open(ctx, name)
}

var errBadSector = errors.New("bad sector")

func (o claimingObject) Size() int64  { return o.size }
func (o claimingObject) Close() error { return nil }
func (o claimingObject) ReadAt(_ context.Context, p []byte, at int64) (int, error) {
	if tailAt := o.size - int64(len(o.tail)); at >= tailAt {
		return copy(p, o.tail[at-tailAt:]), nil
	}
	if at >= 8<<20 && o.name != "index" {
		return 0, errBadSector
	}
	clear(p)
	return len(p), nil
}

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// wantLittle says that what is done takes little memory and returns an error.
func wantLittle(t *testing.T, limit uint64, want error, do func() error) {
	t.Helper()
	var err error
	n := allocated(func() { err = do() })
	t.Logf("%d KiB were allocated; %.100v", n>>10, err)
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
	if n > limit {
		t.Errorf("%d bytes were allocated, more than %d", n, limit)
	}
}

// TestReader_ClaimsOfAnIndexTakeNoMemory: the footer's counts are huge, and so
// are the machine and the index that they need.
func TestReader_ClaimsOfAnIndexTakeNoMemory(t *testing.T) {
	be := binary.BigEndian
	for _, lines := range []uint32{1<<32 - 1, 32 << 20} { // 128 GiB and 1 GiB of directory
		b, _ := small(t, snapshot.StoreFast, 4096)
		f := newForger(t, b)
		x := takeApart(b.Bytes("index"))
		footer := x.footer
		const pages = 1 << 35
		size := int64(lines)*int64(x.lineLen()) + 64
		be.PutUint32(footer[12:], lines)
		be.PutUint64(footer[16:], pages)
		be.PutUint64(footer[24:], pages)
		be.PutUint64(footer[32:], 0)
		x.sumFooter(nil)
		f.object("index")["size"] = size
		block := f.manifest["blocks"].([]any)[0].(map[string]any)
		block["length"], block["pages"] = uint64(pages)*4096, uint64(pages)
		f.manifest["blocks"] = []any{block}
		totals := f.manifest["totals"].(map[string]any)
		totals["pages"], totals["zero"], totals["extents"], totals["index_bytes"] = uint64(pages), 0, uint64(pages), size
		f.sign(t)
		wantLittle(t, 8<<20, snapshot.ErrCorrupt, func() error {
			_, err := snapshot.Open(t.Context(), claiming{b, "index", size, footer}, snapshot.OpenOptions{})
			if err != nil && !strings.Contains(err.Error(), "index") {
				t.Errorf("the index is not what is refused: %v", err)
			}
			return err
		})
	}
}

// TestReader_ClaimsOfAnObjectTakeNoMemory: a disk gives an error where most of
// the object should be.
func TestReader_ClaimsOfAnObjectTakeNoMemory(t *testing.T) {
	for _, name := range []string{"head", "devices", "device-states"} {
		b, _ := small(t, snapshot.StoreFast, 1024)
		f := newForger(t, b)
		limit, size := uint64(4<<20), int64(1<<30)
		if name == "head" {
			size = 1 << 20
		}
		f.object(name)["size"] = size
		f.sign(t)
		want := errBadSector
		if name == "head" {
			want = snapshot.ErrCorrupt
		}
		wantLittle(t, limit, want, func() error {
			r, err := snapshot.Open(t.Context(), claiming{b, name, size, nil}, snapshot.OpenOptions{})
			if err != nil {
				return err
			}
			defer r.Close()
			switch name {
			case "head":
				_, err = r.Head(t.Context())
			case "devices":
				_, err = r.Devices(t.Context())
			default:
				_, err = r.States(t.Context())
			}
			return err
		})
		f.object(name)["size"] = int64(1<<30 + 1)
		f.sign(t)
		wantLittle(t, 8<<20, snapshot.ErrCorrupt, func() error {
			_, err := snapshot.Open(t.Context(), claiming{b, name, 1<<30 + 1, nil}, snapshot.OpenOptions{})
			return err
		})
	}
}

func TestReader_ManifestOfEmptyElementsTakesLittleMemory(t *testing.T) {
	for _, body := range []string{`{"blocks": [`, `{"objects": [`, `{"machine": {"hardware": {"devices": [`} {
		b, _ := small(t, snapshot.StoreFast, 1024)
		f := newForger(t, b)
		f.signText(body + strings.Repeat("{},", 1<<20) + "{}]" + strings.Repeat("}", strings.Count(body, "{")-1))
		wantLittle(t, 96<<20, snapshot.ErrCorrupt, func() error {
			_, err := snapshot.Open(t.Context(), b, snapshot.OpenOptions{})
			return err
		})
	}
	b, _ := small(t, snapshot.StoreFast, 1024)
	f := newForger(t, b)
	f.manifest["tool"] = "\x00"
	f.sign(t)
	f.signText(strings.ReplaceAll(bodyOf(b), `\u0000`, "\xff"))
	if !bytes.Contains(b.Bytes("manifest.json"), []byte{0xff}) {
		t.Fatal("the text is UTF-8")
	}
	wantCorrupt(t, b, "a manifest that is not UTF-8")
}
