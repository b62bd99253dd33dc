package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
)

// pageObject is an object of pages that is being written by one lane.
type pageObject struct {
	index     uint32
	info      ObjectInfo
	w         ObjectWriter
	sum       hash.Hash
	sealed    bool
	gone      bool          // removed: its pages were moved or superseded
	done      chan struct{} // closed when the commit has ended
	committed bool          // then: it went well
}

func (w *Writer) newObject() (*pageObject, error) {
	if err := w.sweepIfDue(); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.objects)-w.gone >= maxNewPageObjects {
		return nil, fmt.Errorf("snapshot: more than %d objects of pages (object size %d)", maxNewPageObjects, w.opts.ObjectSize)
	}
	name := fmt.Sprintf("pages-%06d", len(w.objects))
	ow, err := w.create(name)
	if err != nil {
		return nil, err
	}
	o := &pageObject{index: uint32(len(w.objects)), info: ObjectInfo{Name: name, Role: RolePages}, w: ow, sum: sha256.New(), done: make(chan struct{})}
	w.objects = append(w.objects, o)
	return o, nil
}

// create begins an object, which Abort removes.
func (w *Writer) create(name string) (ObjectWriter, error) {
	ow, err := w.bucket.Create(name)
	if err != nil {
		return nil, fmt.Errorf("snapshot: beginning %s: %w", name, err)
	}
	w.names = append(w.names, name)
	return boundedWriter{ow, w}, nil
}

// boundedWriter keeps the snapshot below its bound.
type boundedWriter struct {
	ObjectWriter
	w *Writer
}

func (b boundedWriter) Write(p []byte) (int, error) {
	stored := b.w.stored.Add(int64(len(p)))
	if limit := b.w.opts.MaxSize; limit > 0 && stored > limit {
		return 0, fmt.Errorf("%w: %d bytes with what comes next, superseded pages included, and the bound is %d (give more with --max-size)", ErrTooLarge, stored, limit)
	}
	return b.ObjectWriter.Write(p)
}

// remove takes an object of pages away whose pages count no more.
func (w *Writer) remove(o *pageObject) error {
	if err := w.bucket.Remove(o.info.Name); err != nil {
		return fmt.Errorf("snapshot: removing superseded pages: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	o.gone = true
	w.gone++
	w.stored.Add(-o.info.Size)
	return nil
}

func (o *pageObject) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	o.sum.Write(p[:n])
	o.info.Size += int64(n)
	if err != nil {
		err = fmt.Errorf("snapshot: writing %s: %w", o.info.Name, err)
	}
	return n, err
}

// seal makes the object durable, in the background: a lane has pages to take.
func (w *Writer) seal(o *pageObject) {
	w.mu.Lock()
	o.sealed = true
	o.info.SHA256 = hex.EncodeToString(o.sum.Sum(nil))
	w.mu.Unlock()
	w.commits.Go(func() error {
		defer close(o.done)
		if err := o.w.Commit(); err != nil {
			return fmt.Errorf("snapshot: committing %s: %w", o.info.Name, err)
		}
		o.committed = true
		return nil
	})
}
