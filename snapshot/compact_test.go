package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/store/storetest"
)

// pageObjects are the names of the objects that hold pages.
func pageObjects(b *storetest.Bucket) []string {
	return slices.DeleteFunc(b.Names(), func(name string) bool { return !strings.HasPrefix(name, "pages-") })
}

// rewritten keeps 128 random pages, and then n of them again.
func rewritten(t *testing.T, store snapshot.Store, n int) (*storetest.Bucket, *model, *snapshot.Manifest) {
	t.Helper()
	l := pcLayout(t, 4096)
	bucket := storetest.NewBucket()
	w := create(t, bucket, l, snapshot.Options{Store: store, ObjectSize: 1}) // an object an extent
	m := newModel(l)
	r := seeded("rewritten")
	ram := l.Blocks[0]
	offsets := spread(r, l, ram, 128)
	lane := openLane(t, w)
	m.put(t, lane, ram, fillPages(r, 4096, 128), offsets...)
	if n > 0 {
		m.put(t, lane, ram, fillPages(r, 4096, n), offsets[:n]...)
	}
	if err := lane.Close(); err != nil {
		t.Fatal(err)
	}
	return bucket, m, finish(t, w, l)
}

func TestFinish_RewritesObjectsThatAreMoreThanAQuarterSuperseded(t *testing.T) {
	for _, store := range stores {
		for _, tt := range []struct {
			again int
			moved bool
		}{{0, false}, {1, false}, {32, false}, {33, true}, {64, true}, {127, true}, {128, true}} {
			t.Run(fmt.Sprintf("%s/%d of 128", store, tt.again), func(t *testing.T) {
				bucket, m, manifest := rewritten(t, store, tt.again)
				if gone := !slices.Contains(pageObjects(bucket), "pages-000000"); gone != tt.moved {
					t.Errorf("the first object was rewritten: %v, want %v (%q)", gone, tt.moved, bucket.Names())
				}
				want := uint64(tt.again)
				if tt.moved {
					want = 0
				}
				if got := manifest.Totals; got.Superseded != want || got.Pages != 128 {
					t.Errorf("%d pages and %d superseded, want 128 and %d", got.Pages, got.Superseded, want)
				}
				r := open(t, bucket)
				if _, err := r.Verify(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
				m.check(t, r)
			})
		}
	}
}

// TestFinish_LeavesAtMostAQuarterSuperseded rewrites pages over and over, as rounds do.
func TestFinish_LeavesAtMostAQuarterSuperseded(t *testing.T) {
	for _, store := range stores {
		for round := range 5 {
			l := pcLayout(t, 4096)
			bucket := storetest.NewBucket()
			w := create(t, bucket, l, snapshot.Options{Store: store, ObjectSize: 30_000})
			m := newModel(l)
			r := seeded(fmt.Sprint(store, round))
			lanes := []guest.Lane{openLane(t, w), openLane(t, w)}
			for range 2 + 4*round {
				b := l.Blocks[2*r.IntN(2)]
				n := 1 + r.IntN(40)
				m.put(t, lanes[r.IntN(2)], b, fillPages(r, 4096, n), spread(r, l, b, n)...)
				m.zero(t, lanes[r.IntN(2)], b, spread(r, l, b, 3)...)
			}
			if err := errors.Join(lanes[0].Close(), lanes[1].Close()); err != nil {
				t.Fatal(err)
			}
			manifest := finish(t, w, l)
			var kept int64
			for _, name := range pageObjects(bucket) {
				kept += int64(len(bucket.Bytes(name)))
			}
			if dead := kept - manifest.Totals.PageBytes; dead*4 > kept {
				t.Errorf("%s, round %d: %d of %d bytes are of no extent in the index", store, round, dead, kept)
			}
			if s := manifest.Totals; store == snapshot.StoreRaw && s.Superseded*4 > s.Superseded+s.Pages {
				t.Errorf("round %d: %d pages are superseded beside %d", round, s.Superseded, s.Pages)
			}
			reader := open(t, bucket)
			if _, err := reader.Verify(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			m.check(t, reader)
		}
	}
}

func TestFinish_MovesDeflatedPagesWithoutRecompression(t *testing.T) {
	l := pcLayout(t, 4096)
	bucket := storetest.NewBucket()
	w := create(t, bucket, l, snapshot.Options{ObjectSize: 1})
	m := newModel(l)
	r := seeded("moved")
	ram := l.Blocks[0]
	offsets := spread(r, l, ram, 128)
	text := bytes.Repeat([]byte("moved as it is. "), 256)
	pages := slices.Repeat([][]byte{text}, 128)
	lane := openLane(t, w)
	m.putDeflated(t, lane, ram, pages, offsets...)
	m.zero(t, lane, ram, offsets[:100]...)
	if err := lane.Close(); err != nil {
		t.Fatal(err)
	}
	finish(t, w, l)
	names := pageObjects(bucket)
	if len(names) != 1 || names[0] == "pages-000000" {
		t.Fatalf("objects %q: it was not compacted", names)
	}
	// 28 lengths, then the very bytes that were put in.
	want := bytes.Repeat(rawDeflate(t, text), 28)
	if got := newForger(t, bucket).extents(names[0]); len(got) != 4*28+len(want) || !bytes.Equal(got[4*28:], want) {
		t.Error("what was moved is not what was put in")
	}
	m.check(t, open(t, bucket))
}

func TestFinish_ClosesTheObjectsThatItOpens(t *testing.T) {
	bucket, _, _ := rewritten(t, snapshot.StoreFast, 100)
	if n := bucket.OpenObjects(); n != 0 {
		t.Errorf("%d objects are open", n)
	}
}

// onlyCommits fails the test when a committed object of pages is read or any
// object is removed: an object store is paid for both.
type onlyCommits struct {
	*storetest.Bucket
	t         *testing.T
	committed *atomic.Int64
}

func (b onlyCommits) Create(ctx context.Context, name string) (store.Writer, error) {
	w, err := b.Bucket.Create(ctx, name)
	return countedWriter{w, b.committed}, err
}

type countedWriter struct {
	store.Writer
	committed *atomic.Int64
}

func (w countedWriter) Commit(ctx context.Context) error {
	w.committed.Add(1)
	return w.Writer.Commit(ctx)
}

func (b onlyCommits) Remove(_ context.Context, name string) error {
	b.t.Errorf("%s was removed", name)
	return errors.New("not removed")
}

func (b onlyCommits) Open(ctx context.Context, name string) (store.Object, error) {
	o, err := b.Bucket.Open(ctx, name)
	if err != nil || !strings.HasPrefix(name, "pages-") {
		return o, err
	}
	return unreadObject{o, b.t}, nil
}

type unreadObject struct {
	store.Object
	t *testing.T
}

func (o unreadObject) ReadAt(context.Context, []byte, int64) (int, error) {
	o.t.Error("a committed object of pages was read")
	return 0, errors.New("not read")
}

// Rounds supersede pages, some objects wholly and some in part.
func TestFinish_CommittedObjectsAreNeitherReadNorRemoved(t *testing.T) {
	for _, kept := range stores {
		for _, bound := range []int64{0, 6<<20 + 64<<10} {
			l := pcLayout(t, 4096)
			bucket := onlyCommits{storetest.NewBucket(), t, new(atomic.Int64)}
			w := create(t, bucket, l, snapshot.Options{Store: kept, ObjectSize: 64 << 10, MaxSize: bound})
			m := newModel(l)
			r := seeded("only commits")
			lane := openLane(t, w)
			ram := l.Blocks[0]
			for round := range 12 {
				n := 250 - 20*round
				m.put(t, lane, ram, fillPages(r, 4096, n%128+1), spread(r, l, ram, n%128+1)...)
				m.put(t, lane, ram, fillPages(r, 4096, 100), spread(r, l, ram, 100)...)
			}
			if err := lane.Close(); err != nil {
				t.Fatal(err)
			}
			if n := bucket.committed.Load(); n != 0 {
				t.Errorf("%s: %d objects are committed before Finish", kept, n)
			}
			manifest := finish(t, w, l)
			left := len(pageObjects(bucket.Bucket))
			if bucket.committed.Load() != int64(len(bucket.Names())) || bucket.Begun() != 0 {
				t.Errorf("%s: %d commits of %q, %d begun", kept, bucket.committed.Load(), bucket.Names(), bucket.Begun())
			}
			if last := pageObjects(bucket.Bucket)[left-1]; last <= fmt.Sprintf("pages-%06d", left-1) {
				t.Errorf("%s: %d objects up to %s: nothing was superseded", kept, left, last)
			}
			var bytes int64
			for _, name := range pageObjects(bucket.Bucket) {
				bytes += int64(len(bucket.Bytes(name)))
			}
			if dead := bytes - manifest.Totals.PageBytes; dead*4 > bytes {
				t.Errorf("%s: %d of %d bytes are superseded", kept, dead, bytes)
			}
			m.check(t, open(t, bucket.Bucket))
		}
	}
}

func TestFinish_EndsWithItsContext(t *testing.T) {
	cause := errors.New("the operator changed her mind")
	l := pcLayout(t, 4096)
	bucket := storetest.NewBucket()
	w := create(t, bucket, l, snapshot.Options{})
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := w.Finish(ctx, metaFor(l)); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
	if err := w.Abort(t.Context()); err != nil || len(bucket.Names()) != 0 {
		t.Errorf("left behind: %q, %v", bucket.Names(), err)
	}
}

func TestReader_EndsWithTheContext(t *testing.T) {
	bucket, m := small(t, snapshot.StoreFast, 4096)
	r := open(t, bucket)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Verify(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify: %v", err)
	}
	if err := r.ExportRaw(ctx, m.layout.Blocks[0], new(memoryFile)); !errors.Is(err, context.Canceled) {
		t.Errorf("ExportRaw: %v", err)
	}
	if err := r.Source(snapshot.SourceOptions{}).Next(ctx, new(guest.Batch)); !errors.Is(err, context.Canceled) {
		t.Errorf("Next: %v", err)
	}
}

// memoryFile is a File in memory.
type memoryFile struct{ b []byte }

func (f *memoryFile) Truncate(size int64) error {
	f.b = append(f.b, make([]byte, max(0, int(size)-len(f.b)))...)[:size]
	return nil
}

func (f *memoryFile) WriteAt(p []byte, at int64) (int, error) {
	if int(at)+len(p) > len(f.b) {
		return 0, io.ErrShortWrite
	}
	return copy(f.b[at:], p), nil
}
