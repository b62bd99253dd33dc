package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrNotObject is wrapped when an entry cannot be an object: a FIFO, a symbolic
// link or a directory under the name.
var ErrNotObject = errors.New("not an object")

// Bucket holds objects by name; [CheckName] says which names there are. An
// object is written once, from its start to its end, and never changed.
// Several goroutines may use a Bucket.
//
// A call whose context has ended returns the context's cause.
type Bucket interface {
	// Create begins an object; fs.ErrExist if the name is taken by an object,
	// or by one that is begun. The object appears, whole, when it is committed.
	Create(ctx context.Context, name string) (Writer, error)
	// Open opens a committed object; fs.ErrNotExist if there is none. It does
	// not wait: an entry that is no object is refused with ErrNotObject.
	Open(ctx context.Context, name string) (Object, error)
	// Remove removes an object that was committed through this bucket;
	// fs.ErrNotExist if nothing has that name. An object that another writer
	// put there under the name stays, and the error says so. Once Remove
	// returns nil, a loss of power does not bring the object back.
	Remove(ctx context.Context, name string) error
	// List lists the names, in any order, those of objects that were begun
	// through this bucket included: they may have a suffix.
	List(ctx context.Context) ([]string, error)
	// String names the bucket for errors.
	String() string
}

// Writer writes one object. It ends with Commit or Abort, after which its
// methods return fs.ErrClosed. One goroutine at a time uses it.
type Writer interface {
	// Write appends p. The context holds for this call only.
	Write(ctx context.Context, p []byte) (int, error)
	// Seal ends the writing, makes the bytes durable where they are kept until
	// Commit, and frees what writing takes, such as a file descriptor. After an
	// error the object can only be aborted.
	Seal(ctx context.Context) error
	// Open opens the object between Seal and Commit or Abort, while it has no
	// name that others can open.
	Open(ctx context.Context) (Object, error)
	// Commit seals the object, unless it is sealed, and makes it visible under
	// its name: once Commit returns nil, a loss of power takes neither the
	// bytes nor the name away. It never replaces an object that has taken the
	// name meanwhile; that is fs.ErrExist. After an error the object may be
	// visible, but nothing else is left of it.
	Commit(ctx context.Context) error
	// Abort removes what was written, and nothing else. It is no error that
	// objects which Open returned are still open; they may fail from then on.
	Abort(ctx context.Context) error
}

// Object reads one object. Several goroutines may use it.
type Object interface {
	// ReadAt fills p with the bytes at offset, as an [io.ReaderAt] does: fewer
	// bytes come with an error, which is io.EOF at the object's end.
	ReadAt(ctx context.Context, p []byte, offset int64) (int, error)
	// Size is the object's size when it was opened.
	Size() int64
	Close() error
}

// ReadFull fills p with the bytes of o at offset. An object that ends before is
// io.ErrUnexpectedEOF.
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

// maxNameLen bounds the name of an object.
const maxNameLen = 128

// CheckName refuses what is no name of an object: names are plain, without a
// separator, and do not begin with a dot.
func CheckName(name string) error {
	if name == "" || len(name) > maxNameLen || strings.ContainsAny(name, "/\x00") || name[0] == '.' {
		return fmt.Errorf("store: %q is no object's name", name)
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
