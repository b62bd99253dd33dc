package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/store/storetest"
)

// save keeps 60 pages, some of them twice, so that Finish has to compact. After
// an error it aborts, as a caller has to.
func save(t *testing.T, b store.Bucket, store snapshot.Store) (saveErr, abortErr error) {
	t.Helper()
	l := pcLayout(t, 1024)
	w := create(t, b, l, snapshot.Options{Store: store, ObjectSize: 5000})
	defer func() {
		if saveErr != nil {
			abortErr = w.Abort(t.Context())
		}
	}()
	lane := openLane(t, w)
	r := seeded("save")
	for _, n := range []int{60, 25} {
		for i := range n {
			off := []uint64{uint64(i * 1024)}
			pages, err := lane.Pages(l.Blocks[0], off)
			if err != nil {
				return err, nil
			}
			copy(pages[0], fillPage(r, 1024))
			if err := lane.Commit(); err != nil {
				return err, nil
			}
		}
	}
	if err := lane.Close(); err != nil {
		return err, nil
	}
	_, err := w.Finish(t.Context(), metaFor(l))
	return err, nil
}

func wantNothing(t *testing.T, b *storetest.Bucket, what string) {
	t.Helper()
	names, err := b.List(t.Context())
	if err != nil || len(names) != 0 || b.Begun() != 0 || b.OpenObjects() != 0 {
		t.Errorf("%s: left behind %q, %d begun, %d open (%v)", what, names, b.Begun(), b.OpenObjects(), err)
	}
}

func TestWriter_FullDiskAtAnyWriteLeavesNothing(t *testing.T) {
	for _, store := range stores {
		whole := storetest.NewBucket()
		if err, _ := save(t, whole, store); err != nil {
			t.Fatal(err)
		}
		total := whole.Written()
		if len(whole.Names()) < 6 {
			t.Fatalf("objects %q: too few to tell", whole.Names())
		}
		step := max(total/60, 1)
		for n := int64(0); n < total; n += step {
			if n+step >= total {
				n = total - 1 // the last byte of the manifest
			}
			b := storetest.NewBucket()
			b.FillAfter(n)
			err, abortErr := save(t, b, store)
			what := fmt.Sprintf("%s, full after %d of %d bytes", store, n, total)
			if !errors.Is(err, storetest.ErrNoSpace) || abortErr != nil {
				t.Errorf("%s: %v, aborting: %v", what, err, abortErr)
			}
			wantNothing(t, b, what)
		}
		b := storetest.NewBucket()
		b.FillAfter(total)
		if err, _ := save(t, b, store); err != nil {
			t.Errorf("%s, with just enough room: %v", store, err)
		}
	}
}

func TestWriter_FailedOperationLeavesNothing(t *testing.T) {
	whole := storetest.NewBucket()
	if err, _ := save(t, whole, snapshot.StoreFast); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	names := append(whole.Names(), "pages-000000") // which compaction takes away
	for _, op := range []storetest.Op{storetest.Create, storetest.Write, storetest.Seal, storetest.Commit, storetest.Abort, storetest.Open, storetest.Read} {
		for _, name := range names {
			moved := name == "pages-000000"
			if reads := op == storetest.Open || op == storetest.Read; reads && !moved || op == storetest.Commit && moved || op == storetest.Abort && !moved {
				continue // only what is moved is read, and is aborted instead of being committed
			}
			b := storetest.NewBucket()
			b.Fail(op, name, boom)
			err, abortErr := save(t, b, snapshot.StoreFast)
			what := fmt.Sprintf("%s of %s fails", op, name)
			if !errors.Is(err, boom) || abortErr != nil {
				t.Errorf("%s: %v, aborting: %v", what, err, abortErr)
			}
			wantNothing(t, b, what)
		}
	}
}

func TestAbort_ErrorOfARemovalIsReported(t *testing.T) {
	boom := errors.New("boom")
	b := storetest.NewBucket()
	b.Fail(storetest.Remove, "", boom)
	b.Fail(storetest.Create, "manifest.json", errors.New("no manifest"))
	_, abortErr := save(t, b, snapshot.StoreRaw)
	if !errors.Is(abortErr, boom) {
		t.Errorf("got %v", abortErr)
	}
	if slices.Contains(b.Names(), "manifest.json") {
		t.Error("there is a manifest")
	}
}

// The lanes' context ends, as when the user interrupts a save. What is there by
// then is removed with the same context.
func TestWriter_EndsWithItsContext(t *testing.T) {
	dir, path := newDir(t)
	bucket := storetest.NewBucket()
	for _, b := range []store.Bucket{bucket, dir} {
		cause := errors.New("the user interrupted it")
		ctx, cancel := context.WithCancelCause(t.Context())
		w, err := snapshot.Create(ctx, b, snapshot.Options{Store: snapshot.StoreRaw, ObjectSize: 1})
		if err != nil {
			t.Fatal(err)
		}
		l := pcLayout(t, 4096)
		if err := w.Setup(l); err != nil {
			t.Fatal(err)
		}
		lane, m, r := openLane(t, w), newModel(l), seeded("interrupted")
		put := func() error {
			offsets := spread(r, l, l.Blocks[0], 128)
			pages, err := lane.Pages(l.Blocks[0], offsets)
			if err != nil {
				t.Fatal(err)
			}
			for i := range pages {
				copy(pages[i], fillPage(r, 4096))
			}
			return lane.Commit()
		}
		m.put(t, lane, l.Blocks[0], fillPages(r, 4096, 100), spread(r, l, l.Blocks[0], 100)...)
		if err := put(); err != nil {
			t.Fatal(err)
		}
		cancel(cause)
		if err := put(); !errors.Is(err, cause) {
			t.Errorf("%v: putting pages: %v", b, err)
		}
		lane.Close() // it has pages that it cannot write
		if err := w.Abort(ctx); err != nil {
			t.Errorf("%v: Abort: %v", b, err)
		}
		if names, err := b.List(t.Context()); err != nil || len(names) != 0 {
			t.Errorf("%v: left behind %q, %v", b, names, err)
		}
	}
	wantNothing(t, bucket, "interrupted")
	if err := dir.RemoveDir(); err != nil {
		t.Errorf("%s: %v", path, err)
	}
}

// fullDir is a directory on a disk with room for some bytes.
type fullDir struct {
	*store.Dir
	left *int
}

func (d fullDir) Create(ctx context.Context, name string) (store.Writer, error) {
	w, err := d.Dir.Create(ctx, name)
	return fullWriter{w, d.left}, err
}

type fullWriter struct {
	store.Writer
	left *int
}

func (w fullWriter) Write(ctx context.Context, p []byte) (int, error) {
	n := min(len(p), *w.left)
	*w.left -= n
	n, err := w.Writer.Write(ctx, p[:n])
	if err == nil && n < len(p) {
		err = storetest.ErrNoSpace
	}
	return n, err
}

func TestWriter_FullDiskLeavesTheDirectoryEmpty(t *testing.T) {
	for left := 0; left < 40_000; left += 2500 {
		path := filepath.Join(t.TempDir(), "snap")
		dir, err := store.CreateDir(path)
		if err != nil {
			t.Fatal(err)
		}
		room := left
		err, abortErr := save(t, fullDir{dir, &room}, snapshot.StoreRaw)
		if !errors.Is(err, storetest.ErrNoSpace) || abortErr != nil {
			t.Fatalf("full after %d bytes: %v, aborting: %v", left, err, abortErr)
		}
		if err := dir.RemoveDir(); err != nil {
			t.Errorf("full after %d bytes: the directory is not empty: %v", left, err)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("full after %d bytes: the directory is still there", left)
		}
	}
}

func TestWriter_CallsInTheWrongOrderFail(t *testing.T) {
	b := storetest.NewBucket()
	l := pcLayout(t, 4096)
	w, err := snapshot.Create(t.Context(), b, snapshot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Lane(); err == nil {
		t.Error("a lane before Setup")
	}
	if _, err := w.Finish(t.Context(), metaFor(l)); err == nil {
		t.Error("Finish before Setup")
	}
	if err := w.Setup(l); err != nil {
		t.Fatal(err)
	}
	if err := w.Setup(l); err == nil {
		t.Error("a second Setup")
	}
	lane := openLane(t, w)
	if _, err := w.Finish(t.Context(), metaFor(l)); err == nil {
		t.Error("Finish while a lane is open")
	}
	if err := errors.Join(lane.Close(), w.Abort(t.Context())); err != nil {
		t.Error(err)
	}
	wantNothing(t, b, "after Abort")
	if _, err := snapshot.Create(t.Context(), b, snapshot.Options{Store: "lzma"}); err == nil {
		t.Error("a store that there is not was taken")
	}
}

func TestLane_ChecksItsArguments(t *testing.T) {
	l := pcLayout(t, 4096)
	w := create(t, storetest.NewBucket(), l, snapshot.Options{})
	lane := openLane(t, w).(guest.DeflatedLane)
	ram := l.Blocks[0]
	for _, off := range []uint64{1, ram.Length, ^uint64(0) &^ 4095} {
		if _, err := lane.Pages(ram, []uint64{0, off}); !errors.Is(err, guest.ErrLayout) {
			t.Errorf("Pages at %#x: %v", off, err)
		}
		if err := lane.Zero(ram, []uint64{off}); !errors.Is(err, guest.ErrLayout) {
			t.Errorf("Zero at %#x: %v", off, err)
		}
		if err := lane.PutDeflated(ram, []uint64{off}, []uint32{1}, []byte{3}); !errors.Is(err, guest.ErrLayout) {
			t.Errorf("PutDeflated at %#x: %v", off, err)
		}
	}
	if _, err := lane.Pages(ram, make([]uint64, 129)); err == nil {
		t.Error("129 pages at once were taken")
	}
	for name, err := range map[string]error{
		"a length too few":   lane.PutDeflated(ram, []uint64{0, 4096}, []uint32{1}, []byte{3}),
		"a byte too few":     lane.PutDeflated(ram, []uint64{0}, []uint32{2}, []byte{3}),
		"a byte too many":    lane.PutDeflated(ram, []uint64{0}, []uint32{1}, []byte{3, 0}),
		"lengths that wrap":  lane.PutDeflated(ram, []uint64{0, 4096}, []uint32{^uint32(0), 2}, []byte{3}),
		"a length of 4 GiB":  lane.PutDeflated(ram, []uint64{0}, []uint32{^uint32(0)}, []byte{3}),
		"a page without one": lane.PutDeflated(ram, []uint64{0}, nil, nil),
	} {
		if err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if err := lane.Close(); err != nil {
		t.Error(err)
	}
}
