package snapshot_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/store/storetest"
)

// sealCounter counts the seals of page objects.
type sealCounter struct {
	*storetest.Bucket
	seals atomic.Int64
}

func (c *sealCounter) Create(ctx context.Context, name string) (store.Writer, error) {
	w, err := c.Bucket.Create(ctx, name)
	if err != nil || !strings.HasPrefix(name, "pages-") {
		return w, err
	}
	return sealWriter{w, c}, nil
}

type sealWriter struct {
	store.Writer
	counter *sealCounter
}

func (w sealWriter) Seal(ctx context.Context) error {
	w.counter.seals.Add(1)
	return w.Writer.Seal(ctx)
}

// The source's machine is paused while the lanes close. A seal flushes the object to the
// disk.
func TestLane_CloseSealsNothing(t *testing.T) {
	l := pcLayout(t, 4096)
	bucket := &sealCounter{Bucket: storetest.NewBucket()}
	w := create(t, bucket, l, snapshot.Options{Store: snapshot.StoreRaw})
	lanes := 0
	for _, block := range l.Blocks {
		lane := openLane(t, w)
		pages, err := lane.Pages(block, []uint64{0})
		if err != nil {
			t.Fatal(err)
		}
		pages[0][7] = 1
		if err := lane.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := lane.Close(); err != nil {
			t.Fatal(err)
		}
		lanes++
	}
	if n := bucket.seals.Load(); n != 0 {
		t.Errorf("%d objects were sealed before Finish", n)
	}
	if _, err := w.Finish(t.Context(), metaFor(l)); err != nil {
		t.Fatal(err)
	}
	if n := bucket.seals.Load(); n != int64(lanes) {
		t.Errorf("Finish sealed %d objects, want %d", n, lanes)
	}
}
