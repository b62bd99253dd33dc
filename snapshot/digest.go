package snapshot

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/store"
)

// digests verifies what a source cannot verify when it reads an extent, while the source
// yields pages: that no two entries of the index use the same bytes, and in format 1 the
// digests of the index and of all page objects. Checksums, which format 1 has for extents,
// find errors of a disk. Only digests find bytes that were changed together with their
// checksums. A source does not read objects in order or completely, so digests reads each
// object of format 1 a second time, mostly from the page cache. In format 2 each extent
// has a digest, which is compared when the extent is read.
//
// The Reader owns the goroutines. They end when all objects are read, at the first
// error, or at Close.
type digests struct {
	mu     sync.Mutex
	cancel context.CancelFunc // nil before the start
	done   chan struct{}      // closed when all goroutines have ended
	err    atomic.Pointer[error]
	ok     atomic.Bool // all digests are verified
	closed bool
}

// digestWorkers returns the number of objects that are read at the same time.
func digestWorkers() int { return min(4, max(1, runtime.GOMAXPROCS(0)/2)) }

// start starts the goroutines at its first call. It returns the first error so far.
func (d *digests) start(ctx context.Context, r *Reader) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	if d.cancel == nil && !d.ok.Load() {
		// Other sources also wait for the goroutines, so they must not end with the
		// context of the first source.
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

// wait waits until all digests are verified. It returns an error if one is wrong.
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

// DigestsVerified reports whether the digests of the index and of all current pages are
// verified: by Verify, or by a source that reached io.EOF.
func (r *Reader) DigestsVerified() bool { return r.digests.ok.Load() }

// compareDigests verifies the index, and in format 1 the digests of the index and of all
// page objects, several at a time.
func (r *Reader) compareDigests(ctx context.Context) error {
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(digestWorkers())
	group.Go(func() error {
		if r.manifest.Version == version1 {
			if err := compareDigest(inner, version1, r.index.o, r.indexInfo); err != nil {
				return err
			}
		}
		return r.verifyIndex(inner)
	})
	for i, info := range r.pages {
		if inner.Err() != nil || r.manifest.Version > version1 {
			break
		}
		group.Go(func() error {
			o, err := r.objects.use(inner, uint32(i))
			if err != nil {
				return err
			}
			err = compareDigest(inner, version1, o, info)
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

// compareDigest reads a whole object and verifies its digest.
func compareDigest(ctx context.Context, version int, o store.Object, info ObjectInfo) error {
	h := newDigest(version)
	buf := make([]byte, min(info.Size, 256<<10))
	for at := int64(0); at < info.Size; {
		if err := contextErr(ctx); err != nil {
			return err
		}
		n, err := o.ReadAt(ctx, buf[:min(int64(len(buf)), info.Size-at)], at)
		h.Write(buf[:n])
		at += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", info.Name, err)
		}
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != info.digest(version) {
		return corrupt(info.Name, "its digest is %s (the manifest has %s)", got, info.digest(version))
	}
	return nil
}
