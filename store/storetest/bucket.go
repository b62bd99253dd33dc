package storetest

import (
	"bytes"
	"context"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/vmferry/vmferry/store"
)

// Bucket is a bucket in memory. Several goroutines may use it.
type Bucket struct {
	mu      sync.Mutex
	objects map[string][]byte
	begun   map[string]bool
	open    int
	faults  faults
	written int64
	read    map[string]int64
}

var _ store.Bucket = (*Bucket)(nil)

// NewBucket returns an empty bucket.
func NewBucket() *Bucket {
	return &Bucket{objects: map[string][]byte{}, begun: map[string]bool{}, read: map[string]int64{}, faults: newFaults()}
}

func (b *Bucket) String() string { return "memory" }

// Create begins an object.
func (b *Bucket) Create(ctx context.Context, name string) (store.Writer, error) {
	if err := store.CheckName(name); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.at(ctx, Create, name); err != nil {
		return nil, err
	}
	if _, there := b.objects[name]; there || b.begun[name] {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	b.begun[name] = true
	return &writer{b: b, name: name}, nil
}

// at returns the error of an operation: the context's, or a planned one.
func (b *Bucket) at(ctx context.Context, op Op, name string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return b.faults.at(op, name)
}

type writer struct {
	b      *Bucket
	name   string
	data   []byte
	sealed bool
	bad    error // the seal failed
	over   bool
}

func (w *writer) closed(op Op) error {
	return &fs.PathError{Op: string(op), Path: w.name, Err: fs.ErrClosed}
}

func (w *writer) Write(ctx context.Context, p []byte) (int, error) {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	if w.over || w.sealed {
		return 0, w.closed(Write)
	}
	if err := w.b.at(ctx, Write, w.name); err != nil {
		return 0, err
	}
	n, err := w.b.faults.room(len(p))
	w.data = append(w.data, p[:n]...)
	w.b.written += int64(n)
	return n, err
}

func (w *writer) Seal(ctx context.Context) error {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	if w.over || w.sealed {
		return w.closed(Seal)
	}
	w.seal(ctx)
	return w.bad
}

func (w *writer) seal(ctx context.Context) {
	w.sealed, w.bad = true, w.b.at(ctx, Seal, w.name)
}

// Open opens the sealed object. Its reads count for its name.
func (w *writer) Open(ctx context.Context) (store.Object, error) {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	if w.over || !w.sealed || w.bad != nil {
		return nil, w.closed(Open)
	}
	if err := w.b.at(ctx, Open, w.name); err != nil {
		return nil, err
	}
	return w.b.opened(w.name, w.data), nil
}

// Commit makes the object visible. As with a file whose sync failed, the
// object is gone after an error.
func (w *writer) Commit(ctx context.Context) error {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	if w.over {
		return w.closed(Commit)
	}
	if !w.sealed {
		w.seal(ctx)
	}
	w.over = true
	delete(w.b.begun, w.name)
	if w.bad != nil {
		return w.bad
	}
	if err := w.b.at(ctx, Commit, w.name); err != nil {
		return err
	}
	if _, there := w.b.objects[w.name]; there { // Put was quicker
		return &fs.PathError{Op: "commit", Path: w.name, Err: fs.ErrExist}
	}
	w.b.objects[w.name] = w.data
	return nil
}

func (w *writer) Abort(context.Context) error {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	if w.over {
		return w.closed(Abort)
	}
	w.over = true
	delete(w.b.begun, w.name)
	return w.b.faults.at(Abort, w.name)
}

// Open opens an object. What it reads is what was there when it was opened.
func (b *Bucket) Open(ctx context.Context, name string) (store.Object, error) {
	if err := store.CheckName(name); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.at(ctx, Open, name); err != nil {
		return nil, err
	}
	data, there := b.objects[name]
	if !there {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return b.opened(name, data), nil
}

func (b *Bucket) opened(name string, data []byte) *object {
	b.open++
	return &object{b: b, name: name, data: data, r: bytes.NewReader(data)}
}

type object struct {
	b      *Bucket
	name   string
	data   []byte
	r      *bytes.Reader
	closed bool
}

func (o *object) Size() int64 { return int64(len(o.data)) }

func (o *object) ReadAt(ctx context.Context, p []byte, offset int64) (int, error) {
	o.b.mu.Lock()
	err := o.b.at(ctx, Read, o.name)
	if o.closed && err == nil {
		err = &fs.PathError{Op: "read", Path: o.name, Err: fs.ErrClosed}
	}
	if err != nil {
		o.b.mu.Unlock()
		return 0, err
	}
	o.b.read[o.name] += int64(max(0, min(len(p), len(o.data)-int(min(offset, int64(len(o.data)))))))
	o.b.mu.Unlock()
	return o.r.ReadAt(p, offset)
}

func (o *object) Close() error {
	o.b.mu.Lock()
	defer o.b.mu.Unlock()
	if o.closed {
		return &fs.PathError{Op: "close", Path: o.name, Err: fs.ErrClosed}
	}
	o.closed = true
	o.b.open--
	return nil
}

// Remove removes an object.
func (b *Bucket) Remove(ctx context.Context, name string) error {
	if err := store.CheckName(name); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.at(ctx, Remove, name); err != nil {
		return err
	}
	if _, there := b.objects[name]; !there {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	delete(b.objects, name)
	return nil
}

// List lists the objects, begun ones included, in the order of their names.
func (b *Bucket) List(ctx context.Context) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.at(ctx, List, ""); err != nil {
		return nil, err
	}
	return slices.Sorted(func(yield func(string) bool) {
		for name := range b.objects {
			if !yield(name) {
				return
			}
		}
		for name := range b.begun {
			if !yield(name) {
				return
			}
		}
	}), nil
}

// Names returns the committed objects in the order of their names.
func (b *Bucket) Names() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.objects))
}

// Bytes returns a copy of a committed object, nil if there is none.
func (b *Bucket) Bytes(name string) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.objects[name])
}

// Put replaces or adds a committed object. No fault comes in its way.
func (b *Bucket) Put(name string, data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.objects[name] = bytes.Clone(data)
}

// Delete takes a committed object away. No fault comes in its way.
func (b *Bucket) Delete(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.objects, name)
}

// Clone returns a bucket with the same committed objects, and no faults.
func (b *Bucket) Clone() *Bucket {
	c := NewBucket()
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.Copy(c.objects, b.objects) // objects are replaced, never changed
	return c
}

// Written returns the bytes that were written to objects so far.
func (b *Bucket) Written() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.written
}

// BytesRead returns the bytes that were read of the object so far.
func (b *Bucket) BytesRead(name string) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read[name]
}

// OpenObjects returns how many objects are open: what was opened and not
// closed yet.
func (b *Bucket) OpenObjects() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

// Begun returns how many objects are begun and neither committed nor aborted.
func (b *Bucket) Begun() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.begun)
}

// ReadAll returns all of an object of any bucket.
func ReadAll(ctx context.Context, b store.Bucket, name string) ([]byte, error) {
	o, err := b.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	data := make([]byte, o.Size())
	return data, store.ReadFull(ctx, o, data, 0)
}
