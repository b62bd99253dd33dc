package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrNotObject is wrapped if an entry with the name is not an object: a FIFO, a
// symbolic link or a directory.
var ErrNotObject = errors.New("store: not an object")

// Bucket stores objects by name. [CheckName] defines the valid names. An object is
// written once, from start to end, and never changed. Several goroutines may use a
// Bucket.
//
// A call whose context has ended returns the context's cause.
type Bucket interface {
	// Create begins an object. It fails with fs.ErrExist if the name belongs to
	// an object, committed or not. The object appears, complete, at Commit.
	Create(ctx context.Context, name string) (Writer, error)
	// Open opens a committed object. It fails with fs.ErrNotExist if there is
	// none, and with ErrNotObject if the entry is not an object. It does not
	// wait for an entry such as a FIFO.
	Open(ctx context.Context, name string) (Object, error)
	// Remove removes an object that was committed through this bucket. It fails
	// with fs.ErrNotExist if the name does not exist. It does not remove an
	// object of another writer: it returns an error instead. After Remove returns
	// nil, the object stays removed even after a loss of power.
	Remove(ctx context.Context, name string) error
	// List returns the names of the objects in any order. It includes objects
	// that were begun through this bucket, whose names may have a suffix.
	List(ctx context.Context) ([]string, error)
	// String names the bucket in errors.
	String() string
}

// Writer writes one object. Commit or Abort ends it: then its methods return
// fs.ErrClosed. One goroutine at a time may use a Writer.
type Writer interface {
	// Write appends p. The context applies to this call only.
	Write(ctx context.Context, p []byte) (int, error)
	// Seal ends writing, makes the bytes durable where the bucket keeps them
	// until Commit, and frees resources such as a file descriptor. After an error
	// the caller can only abort the object.
	Seal(ctx context.Context) error
	// Open opens the object between Seal and Commit or Abort. Other users of the
	// bucket cannot open the object yet.
	Open(ctx context.Context) (Object, error)
	// Commit seals the object if needed and makes it visible under its name.
	// After Commit returns nil, the bytes and the name survive a loss of power.
	// Commit never replaces another object of the name: then it fails with
	// fs.ErrExist. After an error the object may be visible, but nothing else
	// remains of it.
	Commit(ctx context.Context) error
	// Abort removes the bytes of this object, and nothing else. Objects that Open
	// returned may still be open, but their methods may then fail.
	Abort(ctx context.Context) error
}

// Object reads one object. Several goroutines may use it.
type Object interface {
	// ReadAt fills p with the bytes at offset. Like [io.ReaderAt], it returns an
	// error if it reads fewer bytes than len(p): io.EOF at the end of the object.
	ReadAt(ctx context.Context, p []byte, offset int64) (int, error)
	// Size returns the size in bytes that the object had when it was opened.
	Size() int64
	Close() error
}

// ReadFull fills p with the bytes of o at offset. It returns io.ErrUnexpectedEOF if o
// ends before p is full.
func ReadFull(ctx context.Context, o Object, p []byte, offset int64) error {
	n, err := o.ReadAt(ctx, p, offset)
	if n == len(p) {
		return nil
	}
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// maxNameLen is the largest length of an object's name in bytes.
const maxNameLen = 128

// CheckName returns an error if name is not a valid name of an object. A valid name has
// 1 to 128 bytes, no "/" or NUL byte, and does not begin with a dot.
func CheckName(name string) error {
	if name == "" || len(name) > maxNameLen || strings.ContainsAny(name, "/\x00") || name[0] == '.' {
		return fmt.Errorf("store: invalid object name %q (want 1 to %d bytes without / and without a leading dot)", name, maxNameLen)
	}
	return nil
}

// ended returns the cause of a context that has ended.
func ended(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
