package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/vmferry/vmferry/store"
)

// pageObject is an object of pages that is being written by one lane. It is
// committed in Finish, when it is known which of its pages count: until then it
// is sealed, and is read and aborted instead of being opened and removed.
type pageObject struct {
	index  uint32
	info   ObjectInfo
	w      store.Writer // nil before it is begun
	sum    hash.Hash
	sealed bool          // or is being sealed
	gone   bool          // aborted, because its pages were moved or superseded, or never begun
	done   chan struct{} // closed when the seal has ended
	good   bool          // then: it went well
}

func (w *Writer) newObject(ctx context.Context) (*pageObject, error) {
	if err := w.sweepIfDue(ctx); err != nil {
		return nil, err
	}
	o, err := w.reserveObject()
	if err != nil {
		return nil, err
	}
	ow, err := w.create(ctx, o.info.Name)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		o.gone = true
		w.gone++
		return nil, err
	}
	o.w = ow
	return o, nil
}

// reserveObject takes the next number.
func (w *Writer) reserveObject() (*pageObject, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.objects)-w.gone >= maxNewPageObjects {
		return nil, fmt.Errorf("snapshot: more than %d objects of pages (object size %d)", maxNewPageObjects, w.opts.ObjectSize)
	}
	name := fmt.Sprintf("pages-%06d", len(w.objects))
	o := &pageObject{index: uint32(len(w.objects)), info: ObjectInfo{Name: name, Role: RolePages}, sum: sha256.New(), done: make(chan struct{})}
	w.objects = append(w.objects, o)
	return o, nil
}

// create begins an object.
func (w *Writer) create(ctx context.Context, name string) (store.Writer, error) {
	ow, err := w.bucket.Create(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("snapshot: beginning %s: %w", name, err)
	}
	return boundedWriter{ow, w}, nil
}

// commit makes an object visible. Abort removes it then.
func (w *Writer) commit(ctx context.Context, name string, ow store.Writer) error {
	w.mu.Lock()
	w.committed = append(w.committed, name)
	w.mu.Unlock()
	if err := ow.Commit(ctx); err != nil {
		return fmt.Errorf("snapshot: committing %s: %w", name, err)
	}
	return nil
}

// boundedWriter keeps the snapshot below its bound.
type boundedWriter struct {
	store.Writer
	w *Writer
}

func (b boundedWriter) Write(ctx context.Context, p []byte) (int, error) {
	stored := b.w.stored.Add(int64(len(p)))
	if limit := b.w.opts.MaxSize; limit > 0 && stored > limit {
		return 0, fmt.Errorf("%w: %d bytes with what comes next, superseded pages included, and the bound is %d (give more with --max-size)", ErrTooLarge, stored, limit)
	}
	return b.Writer.Write(ctx, p)
}

// remove takes an object of pages away whose pages count no more.
func (w *Writer) remove(ctx context.Context, o *pageObject) error {
	w.mu.Lock()
	o.gone = true
	w.gone++
	w.mu.Unlock()
	if err := o.w.Abort(ctx); err != nil {
		return fmt.Errorf("snapshot: removing superseded pages: %w", err)
	}
	w.stored.Add(-o.info.Size)
	return nil
}

func (o *pageObject) write(ctx context.Context, p []byte) error {
	n, err := o.w.Write(ctx, p)
	o.sum.Write(p[:n])
	o.info.Size += int64(n)
	if err != nil {
		return fmt.Errorf("snapshot: writing %s: %w", o.info.Name, err)
	}
	return nil
}

// seal makes the object durable, in the background: a lane has pages to take.
func (w *Writer) seal(ctx context.Context, o *pageObject) {
	w.mu.Lock()
	o.sealed = true
	o.info.SHA256 = hex.EncodeToString(o.sum.Sum(nil))
	o.sum = nil
	w.mu.Unlock()
	w.seals.Go(func() error {
		defer close(o.done)
		if err := o.w.Seal(ctx); err != nil {
			return fmt.Errorf("snapshot: making %s durable: %w", o.info.Name, err)
		}
		o.good = true
		return nil
	})
}
