package snapshottest

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/vmferry/vmferry/snapshot"
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

var _ snapshot.Bucket = (*Bucket)(nil)

// NewBucket returns an empty bucket.
func NewBucket() *Bucket {
	return &Bucket{objects: map[string][]byte{}, begun: map[string]bool{}, read: map[string]int64{}, faults: newFaults()}
}

func (b *Bucket) String() string { return "memory" }

func checkName(name string) error {
	if name == "" || len(name) > 128 || strings.ContainsAny(name, "/\x00") || name[0] == '.' {
		return fmt.Errorf("snapshottest: %q is no object's name", name)
	}
	return nil
}

// Create begins an object.
func (b *Bucket) Create(name string) (snapshot.ObjectWriter, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.faults.at(Create, name); err != nil {
		return nil, err
	}
	if _, there := b.objects[name]; there || b.begun[name] {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	b.begun[name] = true
	return &writer{b: b, name: name}, nil
}

type writer struct {
	b    *Bucket
	name string
	data []byte
	over bool
}

func (w *writer) Write(p []byte) (int, error) {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	if w.over {
		return 0, &fs.PathError{Op: "write", Path: w.name, Err: fs.ErrClosed}
	}
	if err := w.b.faults.at(Write, w.name); err != nil {
		return 0, err
	}
	n, err := w.b.faults.room(len(p))
	w.data = append(w.data, p[:n]...)
	w.b.written += int64(n)
	return n, err
}

// Commit makes the object visible. As with a file whose sync failed, the
// object is gone after an error.
func (w *writer) Commit() error {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	if w.over {
		return &fs.PathError{Op: "commit", Path: w.name, Err: fs.ErrClosed}
	}
	w.over = true
	delete(w.b.begun, w.name)
	if err := w.b.faults.at(Commit, w.name); err != nil {
		return err
	}
	w.b.objects[w.name] = w.data
	return nil
}

func (w *writer) Abort() error {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	if w.over {
		return &fs.PathError{Op: "abort", Path: w.name, Err: fs.ErrClosed}
	}
	w.over = true
	delete(w.b.begun, w.name)
	return nil
}

// Open opens an object. What it reads is what was there when it was opened.
func (b *Bucket) Open(name string) (snapshot.Object, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.faults.at(Open, name); err != nil {
		return nil, err
	}
	data, there := b.objects[name]
	if !there {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	b.open++
	return &object{b: b, name: name, data: data, r: bytes.NewReader(data)}, nil
}

type object struct {
	b      *Bucket
	name   string
	data   []byte
	r      *bytes.Reader
	closed bool
}

func (o *object) Size() int64 { return int64(len(o.data)) }

func (o *object) ReadAt(p []byte, offset int64) (int, error) {
	o.b.mu.Lock()
	err := o.b.faults.at(Read, o.name)
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
func (b *Bucket) Remove(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.faults.at(Remove, name); err != nil {
		return err
	}
	if _, there := b.objects[name]; !there {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	delete(b.objects, name)
	return nil
}

// List lists the objects, begun ones included, in the order of their names.
func (b *Bucket) List() ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.faults.at(List, ""); err != nil {
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
func ReadAll(b snapshot.Bucket, name string) ([]byte, error) {
	o, err := b.Open(name)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	return io.ReadAll(io.NewSectionReader(o, 0, o.Size()))
}
