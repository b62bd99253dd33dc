package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/store/storetest"
)

// gated is a bucket whose reads of pages are counted, and wait at a gate if
// there is one.
type gated struct {
	*storetest.Bucket
	reads *atomic.Int64
	gate  *gate
}

// gate says when a read arrives, and lets it pass when it is opened.
type gate struct {
	arrived chan int64 // the offset
	open    chan struct{}
}

func newGate() *gate { return &gate{make(chan int64), make(chan struct{})} }

type gatedObject struct {
	store.Object
	b *gated
}

func (b *gated) Open(ctx context.Context, name string) (store.Object, error) {
	o, err := b.Bucket.Open(ctx, name)
	if err != nil || !strings.HasPrefix(name, "pages-") {
		return o, err
	}
	return gatedObject{o, b}, nil
}

func (o gatedObject) ReadAt(ctx context.Context, p []byte, offset int64) (int, error) {
	o.b.reads.Add(1)
	if o.b.gate != nil {
		select {
		case o.b.gate.arrived <- offset:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		select {
		case <-o.b.gate.open:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	return o.Object.ReadAt(ctx, p, offset)
}

const extentPages = 128

// extents keeps a block of n full extents, one after the other.
func extents(t *testing.T, n int, kept snapshot.Store) (*gated, *model) {
	t.Helper()
	b := &gated{Bucket: storetest.NewBucket(), reads: new(atomic.Int64)}
	l := newLayout(t, 4096, guest.Block{Name: "pc.ram", Length: uint64(n) * extentPages * 4096})
	w := create(t, b, l, snapshot.Options{Store: kept})
	lane := openLane(t, w)
	m := newModel(l)
	r := seeded("extents")
	for first := range n {
		var offsets []uint64
		for i := range extentPages {
			offsets = append(offsets, uint64(first*extentPages+i)*4096)
		}
		m.put(t, lane, l.Blocks[0], fillPages(r, 4096, extentPages), offsets...)
	}
	if err := lane.Close(); err != nil {
		t.Fatal(err)
	}
	finish(t, w, l)
	b.reads.Store(0)
	return b, m
}

// wantPage reads a page of the n-th extent.
func wantPage(t *testing.T, r *snapshot.Reader, m *model, n, page int) {
	t.Helper()
	block, off := r.Layout().Blocks[0], uint64(n*extentPages+page)*4096
	dst := make([]byte, 4096)
	if err := r.Page(t.Context(), block, off, dst); err != nil {
		t.Errorf("page %d of extent %d: %v", page, n, err)
	} else if !bytes.Equal(dst, m.page(block, off)) {
		t.Errorf("page %d of extent %d is another", page, n)
	}
}

// Each read waits until all have arrived.
func TestPage_DifferentExtentsAreReadConcurrently(t *testing.T) {
	const n = 4
	b, m := extents(t, n, snapshot.StoreFast)
	r := open(t, b)
	b.gate = newGate()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { wantPage(t, r, m, i, i) })
	}
	seen := map[int64]bool{}
	for range n {
		seen[<-b.gate.arrived] = true
	}
	close(b.gate.open)
	wg.Wait()
	if len(seen) != n || b.reads.Load() != n {
		t.Errorf("reads at %v, %d in all, want %d", seen, b.reads.Load(), n)
	}
}

func TestPage_CallsForOneExtentShareItsRead(t *testing.T) {
	for _, kept := range stores {
		b, m := extents(t, 1, kept)
		r := open(t, b)
		b.gate = newGate()
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() { wantPage(t, r, m, 0, 5*i) })
		}
		<-b.gate.arrived
		close(b.gate.open)
		wg.Wait()
		for i := range extentPages {
			wantPage(t, r, m, 0, i)
		}
		if n := b.reads.Load(); n != 1 {
			t.Errorf("%s: %d reads, want 1", kept, n)
		}
	}
}

func TestPage_KeepsExtentsUpToTheBound(t *testing.T) {
	const n = 4
	for _, tt := range []struct {
		name  string
		size  int64
		reads int64 // of n extents, twice in a row
	}{
		{"all fit", 4 << 20, n},
		{"the default", 0, n},
		{"one is missing", n*extentPages*4096 - 1, 2 * n}, // the one used first goes
		{"none is kept", -1, 2 * n},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, m := extents(t, n, snapshot.StoreRaw)
			r, err := snapshot.Open(t.Context(), b, snapshot.OpenOptions{CacheSize: tt.size})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			for i := range 2 * n {
				wantPage(t, r, m, i%n, i)
			}
			if got := b.reads.Load(); got != tt.reads {
				t.Errorf("%d reads, want %d", got, tt.reads)
			}
		})
	}
}

func TestPage_ErrorsAreNotKept(t *testing.T) {
	b, m := extents(t, 1, snapshot.StoreFast)
	r := open(t, b)
	boom := errors.New("boom")
	b.Fail(storetest.Read, "pages-000000", boom)
	for range 2 {
		if err := r.Page(t.Context(), r.Layout().Blocks[0], 0, make([]byte, 4096)); !errors.Is(err, boom) {
			t.Errorf("got %v", err)
		}
	}
	b.Fail(storetest.Read, "pages-000000", nil)
	wantPage(t, r, m, 0, 3)
}

func TestPage_CorruptExtentIsRefusedEachTime(t *testing.T) {
	for _, kept := range stores {
		b, _ := extents(t, 1, kept)
		r := open(t, b)
		b.FlipBit("pages-000000", 8*4096+3)
		r.Close()
		r = open(t, b)
		dst := make([]byte, 4096)
		for range 3 {
			if err := r.Page(t.Context(), r.Layout().Blocks[0], 0, dst); !errors.Is(err, snapshot.ErrCorrupt) {
				t.Errorf("%s: %v", kept, err)
			}
		}
	}
}

func TestPage_EndsWithItsContext(t *testing.T) {
	b, m := extents(t, 1, snapshot.StoreFast)
	r := open(t, b)
	b.gate = newGate()
	cause := errors.New("the guest is gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error)
	go func() { ended <- r.Page(ctx, r.Layout().Blocks[0], 0, make([]byte, 4096)) }()
	<-b.gate.arrived
	cancel(cause)
	if err := <-ended; !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
	b.gate = nil
	wantPage(t, r, m, 0, 0)
}

// Close waits for a read that is under way. Calls that begin later fail.
func TestPage_WhileTheReaderIsClosed(t *testing.T) {
	b, m := extents(t, 2, snapshot.StoreFast)
	r, err := snapshot.Open(t.Context(), b, snapshot.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantPage(t, r, m, 1, 0)
	b.gate = newGate()
	var wg sync.WaitGroup
	wg.Go(func() { wantPage(t, r, m, 0, 0) })
	<-b.gate.arrived
	closed := make(chan error)
	go func() { closed <- r.Close() }()
	dst := make([]byte, 4096)
	for r.Page(t.Context(), r.Layout().Blocks[0], extentPages*4096, dst) == nil { // until Close has begun
		runtime.Gosched()
	}
	select {
	case err := <-closed:
		t.Errorf("Close returned before the read: %v", err)
	default:
	}
	close(b.gate.open)
	wg.Wait()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if n := b.OpenObjects(); n != 0 {
		t.Errorf("%d objects are open", n)
	}
	if err := r.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}
