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

// Bucket is a store.Bucket in memory. Several goroutines may use it.
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
	if err := b.failure(ctx, Create, name); err != nil {
		return nil, err
	}
	if _, there := b.objects[name]; there || b.begun[name] {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	b.begun[name] = true
	return &writer{b: b, name: name}, nil
}

// failure returns the error of an operation: the context's cause, or a planned one.
func (b *Bucket) failure(ctx context.Context, op Op, name string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return b.faults.planned(op, name)
}

type writer struct {
	b       *Bucket
	name    string
	data    []byte
	sealed  bool
	sealErr error // of a seal that failed
	ended   bool  // committed or aborted
}

func (w *writer) closed(op Op) error {
	return &fs.PathError{Op: string(op), Path: w.name, Err: fs.ErrClosed}
}

func (w *writer) Write(ctx context.Context, p []byte) (int, error) {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	if w.ended || w.sealed {
		return 0, w.closed(Write)
	}
	if err := w.b.failure(ctx, Write, w.name); err != nil {
		return 0, err
	}
	n, err := w.b.faults.reserve(len(p))
	w.data = append(w.data, p[:n]...)
	w.b.written += int64(n)
	return n, err
}

func (w *writer) Seal(ctx context.Context) error {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	if w.ended || w.sealed {
		return w.closed(Seal)
	}
	w.seal(ctx)
	return w.sealErr
}

func (w *writer) seal(ctx context.Context) {
	w.sealed, w.sealErr = true, w.b.failure(ctx, Seal, w.name)
}

// Open opens the sealed object. BytesRead counts its reads.
func (w *writer) Open(ctx context.Context) (store.Object, error) {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	if w.ended || !w.sealed || w.sealErr != nil {
		return nil, w.closed(Open)
	}
	if err := w.b.failure(ctx, Open, w.name); err != nil {
		return nil, err
	}
	return w.b.opened(w.name, w.data), nil
}

// Commit makes the object visible. After an error the object is removed, like a file
// whose sync failed.
func (w *writer) Commit(ctx context.Context) error {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	if w.ended {
		return w.closed(Commit)
	}
	if !w.sealed {
		w.seal(ctx)
	}
	w.ended = true
	delete(w.b.begun, w.name)
	if w.sealErr != nil {
		return w.sealErr
	}
	if err := w.b.failure(ctx, Commit, w.name); err != nil {
		return err
	}
	if _, there := w.b.objects[w.name]; there { // Put added the object in the meantime
		return &fs.PathError{Op: "commit", Path: w.name, Err: fs.ErrExist}
	}
	w.b.objects[w.name] = w.data
	return nil
}

func (w *writer) Abort(context.Context) error {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	if w.ended {
		return w.closed(Abort)
	}
	w.ended = true
	delete(w.b.begun, w.name)
	return w.b.faults.planned(Abort, w.name)
}

// Open opens an object. Later changes of the object do not affect its content.
func (b *Bucket) Open(ctx context.Context, name string) (store.Object, error) {
	if err := store.CheckName(name); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.failure(ctx, Open, name); err != nil {
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
	err := o.b.failure(ctx, Read, o.name)
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
	if err := b.failure(ctx, Remove, name); err != nil {
		return err
	}
	if _, there := b.objects[name]; !there {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	delete(b.objects, name)
	return nil
}

// List returns the sorted names of the objects, including those that are begun.
func (b *Bucket) List(ctx context.Context) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.failure(ctx, List, ""); err != nil {
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

// Names returns the sorted names of the committed objects.
func (b *Bucket) Names() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.objects))
}

// Bytes returns a copy of a committed object, or nil if there is none.
func (b *Bucket) Bytes(name string) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.objects[name])
}

// Put adds or replaces a committed object. Planned failures do not apply.
func (b *Bucket) Put(name string, data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.objects[name] = bytes.Clone(data)
}

// Delete deletes a committed object. Planned failures do not apply.
func (b *Bucket) Delete(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.objects, name)
}

// Clone returns a bucket with the same committed objects and no planned failures.
func (b *Bucket) Clone() *Bucket {
	c := NewBucket()
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.Copy(c.objects, b.objects) // objects are replaced, never changed
	return c
}

// Written returns the number of bytes written to objects so far.
func (b *Bucket) Written() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.written
}

// BytesRead returns the number of bytes read from the object so far.
func (b *Bucket) BytesRead(name string) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read[name]
}

// OpenObjects returns the number of objects that are open.
func (b *Bucket) OpenObjects() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

// Begun returns the number of objects that are neither committed nor aborted.
func (b *Bucket) Begun() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.begun)
}

// ReadAll returns the content of an object of any bucket.
func ReadAll(ctx context.Context, b store.Bucket, name string) ([]byte, error) {
	o, err := b.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	data := make([]byte, o.Size())
	return data, store.ReadFull(ctx, o, data, 0)
}
