package snapshot

import (
	"context"
	"fmt"

	"github.com/vmferry/vmferry/store"
)

// pageObject is an object of pages that one lane writes. Finish commits it, when the
// Writer knows which of its pages are current. Until then it is sealed, so the Writer
// reads and aborts it instead of opening and removing a committed object.
type pageObject struct {
	index  uint32
	info   ObjectInfo
	w      store.Writer // nil before the object is created
	parts  []part
	sealed bool          // sealed, or a seal is in progress
	gone   bool          // aborted because its pages were moved or superseded, or never created
	done   chan struct{} // closed at the end of the seal
	sealOK bool          // the seal succeeded; valid once done is closed
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

// reserveObject adds a page object with the next number.
func (w *Writer) reserveObject() (*pageObject, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.objects)-w.gone >= maxNewPageObjects {
		return nil, fmt.Errorf("snapshot: more than %d objects of pages (object size %d: increase Options.ObjectSize)", maxNewPageObjects, w.opts.ObjectSize)
	}
	name := fmt.Sprintf("pages-%06d", len(w.objects))
	o := &pageObject{index: uint32(len(w.objects)), info: ObjectInfo{Name: name, Role: RolePages}, done: make(chan struct{})}
	w.objects = append(w.objects, o)
	return o, nil
}

// create creates an object whose writes count towards Options.MaxSize.
func (w *Writer) create(ctx context.Context, name string) (store.Writer, error) {
	ow, err := w.bucket.Create(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("snapshot: creating %s: %w", name, err)
	}
	return boundedWriter{ow, w}, nil
}

// commit makes an object visible. Abort removes committed objects.
func (w *Writer) commit(ctx context.Context, name string, ow store.Writer) error {
	w.mu.Lock()
	w.committed = append(w.committed, name)
	w.mu.Unlock()
	if err := ow.Commit(ctx); err != nil {
		return fmt.Errorf("snapshot: committing %s: %w", name, err)
	}
	return nil
}

// boundedWriter keeps the snapshot below Options.MaxSize.
type boundedWriter struct {
	store.Writer
	w *Writer
}

func (b boundedWriter) Write(ctx context.Context, p []byte) (int, error) {
	stored := b.w.stored.Add(int64(len(p)))
	if limit := b.w.opts.MaxSize; limit > 0 && stored > limit {
		return 0, fmt.Errorf("%w: the next write makes it %d bytes, including superseded pages, but the bound is %d (raise --max-size)", ErrTooLarge, stored, limit)
	}
	return b.Writer.Write(ctx, p)
}

// remove aborts a page object that has no current page.
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

// add writes the bytes of an extent, whose sum is s.
func (o *pageObject) add(ctx context.Context, p []byte, s sum) error {
	o.parts = append(o.parts, part{uint32(len(p)), s})
	o.info.Parts++
	return o.write(ctx, p)
}

func (o *pageObject) write(ctx context.Context, p []byte) error {
	n, err := o.w.Write(ctx, p)
	o.info.Size += int64(n)
	if err != nil {
		return fmt.Errorf("snapshot: writing %s: %w", o.info.Name, err)
	}
	return nil
}

// seal ends the object with the list of its parts, and makes it durable in the
// background, so that the lane can continue.
func (w *Writer) seal(ctx context.Context, o *pageObject) error {
	list := appendParts(nil, o.parts)
	if err := o.write(ctx, list); err != nil {
		return err
	}
	w.mu.Lock()
	o.sealed, o.parts = true, nil
	o.info.BLAKE3 = digestOf(newestVersion, list)
	w.mu.Unlock()
	w.seals.Go(func() error {
		defer close(o.done)
		if err := o.w.Seal(ctx); err != nil {
			return fmt.Errorf("snapshot: making %s durable: %w", o.info.Name, err)
		}
		o.sealOK = true
		return nil
	})
	return nil
}

// sealRest seals the last objects of closed lanes.
func (w *Writer) sealRest(ctx context.Context) error {
	for _, o := range w.unsealed {
		if err := w.seal(ctx, o); err != nil {
			return err
		}
	}
	w.unsealed = nil
	return nil
}
