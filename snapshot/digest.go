package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/store"
)

// digests compares the digests of the index and of all objects of pages with
// the manifest's while a source yields pages. Checksums find what a disk
// changes; only digests find bytes that were changed together with their checksums.
// Objects are read a second time for that, mostly from the page cache, since
// a source does not read them in the order of their bytes, nor all of them.
//
// Its goroutines are the reader's: they end when all is read, at the first
// error, or when the reader is closed.
type digests struct {
	mu     sync.Mutex
	cancel context.CancelFunc // nil before the start
	done   chan struct{}      // closed when all goroutines have ended
	err    atomic.Pointer[error]
	ok     atomic.Bool
	closed bool
}

// digestWorkers is how many objects are read at once. SHA-256 takes about 2 ns
// a byte without instructions for it.
func digestWorkers() int { return min(4, max(1, runtime.GOMAXPROCS(0)/2)) }

// start begins, once. Only close ends them early. It returns what went wrong so far.
func (d *digests) start(ctx context.Context, r *Reader) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	if d.cancel == nil && !d.ok.Load() {
		// Other sources wait for them too: the first one's end is not theirs.
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		d.cancel, d.done = cancel, make(chan struct{})
		go func() {
			defer close(d.done)
			if err := r.compareDigests(ctx); err != nil {
				d.err.Store(&err)
			} else {
				d.ok.Store(true)
			}
		}()
	}
	return d.failed()
}

func (d *digests) failed() error {
	if err := d.err.Load(); err != nil {
		return *err
	}
	return nil
}

// wait returns nil when all digests are right.
func (d *digests) wait(ctx context.Context) error {
	if d.ok.Load() {
		return nil
	}
	select {
	case <-d.done:
		return d.failed()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (d *digests) close() {
	d.mu.Lock()
	d.closed = true
	cancel := d.cancel
	d.mu.Unlock()
	if cancel != nil {
		cancel()
		<-d.done
	}
}

// DigestsVerified says whether the digests of the index and of all pages were
// found right: by Verify, or by a source that came to its end.
func (r *Reader) DigestsVerified() bool { return r.digests.ok.Load() }

// compareDigests reads the index and the objects of pages, several at a time.
func (r *Reader) compareDigests(ctx context.Context) error {
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(digestWorkers())
	group.Go(func() error {
		if err := compareDigest(inner, r.index.o, r.indexInfo); err != nil {
			return err
		}
		return r.verifyIndex(inner)
	})
	for i, info := range r.pages {
		if inner.Err() != nil {
			break
		}
		group.Go(func() error {
			o, err := r.objects.use(inner, uint32(i))
			if err != nil {
				return err
			}
			err = compareDigest(inner, o, info)
			if closeErr := r.objects.release(o); err == nil {
				err = closeErr
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return contextErr(ctx)
}

// compareDigest reads an object from its start to its end.
func compareDigest(ctx context.Context, o store.Object, info ObjectInfo) error {
	sum := sha256.New()
	buf := make([]byte, min(info.Size, 256<<10))
	for at := int64(0); at < info.Size; {
		if err := contextErr(ctx); err != nil {
			return err
		}
		n, err := o.ReadAt(ctx, buf[:min(int64(len(buf)), info.Size-at)], at)
		sum.Write(buf[:n])
		at += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", info.Name, err)
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != info.SHA256 {
		return corrupt(info.Name, "its digest is %s (the manifest says %s)", got, info.SHA256)
	}
	return nil
}
