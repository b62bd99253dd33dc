package snapshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Bucket holds the objects of one snapshot. Names are plain, without a
// separator. An object is written once, from its start to its end.
type Bucket interface {
	// Create begins an object. It appears, whole, when it is committed.
	Create(name string) (ObjectWriter, error)
	// Open opens an object; fs.ErrNotExist if there is none.
	Open(name string) (Object, error)
	// Remove removes an object.
	Remove(name string) error
	// List lists what is there, begun objects included.
	List() ([]string, error)
	// String names the bucket for errors.
	String() string
}

// ObjectWriter writes one object.
type ObjectWriter interface {
	io.Writer
	// Commit makes the object durable, and visible under its name. After an
	// error it may be visible, but nothing else is left of it.
	Commit() error
	// Abort removes what was written.
	Abort() error
}

// Object reads one object. Several goroutines may.
type Object interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Dir is a bucket in a directory of the local file system.
type Dir struct{ path string }

// CreateDir makes a directory for a new snapshot, or takes one that is empty.
func CreateDir(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("snapshot directory: %w", err)
	}
	d := &Dir{path}
	names, err := d.List()
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return d, nil
	}
	for _, name := range names {
		if name == manifestName {
			return nil, fmt.Errorf("%w: %s holds a snapshot; remove it or save to another name", ErrExists, path)
		}
	}
	return nil, fmt.Errorf("%w: %s is not empty (%s) and holds no complete snapshot; if it is what a save left behind that was killed, remove it", ErrExists, path, names[0])
}

// OpenDir opens the directory of a snapshot.
func OpenDir(path string) (*Dir, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("snapshot: %s is no directory", path)
	}
	return &Dir{path}, nil
}

func (d *Dir) String() string { return d.path }

// partial ends the name of an object that is not committed.
const partial = ".partial"

func checkName(name string) error {
	if name == "" || len(name) > 128 || strings.ContainsAny(name, "/\x00") || name[0] == '.' {
		return fmt.Errorf("snapshot: %q is no object's name", name)
	}
	return nil
}

// Create begins an object.
func (d *Dir) Create(name string) (ObjectWriter, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	path := filepath.Join(d.path, name)
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("snapshot: object %s: %w", name, fs.ErrExist)
	}
	f, err := os.OpenFile(path+partial, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return &dirObjectWriter{File: f, path: path}, nil
}

type dirObjectWriter struct {
	*os.File
	path    string
	written int64
	flushed int64 // what the kernel was asked to write to the disk
}

// flushStep is how many bytes are left to the kernel before it is asked to
// write them. Otherwise all of an object waits for Commit, and Commit for it.
const flushStep = 8 << 20

func (w *dirObjectWriter) Write(p []byte) (int, error) {
	n, err := w.File.Write(p)
	w.written += int64(n)
	if w.written-w.flushed >= flushStep {
		// This only begins the writing; Commit's fsync is what counts, and
		// says what went wrong.
		unix.SyncFileRange(int(w.Fd()), w.flushed, w.written-w.flushed, unix.SYNC_FILE_RANGE_WRITE)
		w.flushed = w.written
	}
	return n, err
}

func (w *dirObjectWriter) Commit() error {
	err := w.Sync()
	if closeErr := w.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(w.path+partial, w.path)
	}
	if err != nil {
		os.Remove(w.path + partial) // nobody else knows of it
		return err
	}
	return syncDir(filepath.Dir(w.path))
}

func (w *dirObjectWriter) Abort() error {
	w.Close()
	return os.Remove(w.path + partial)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Open opens an object.
func (d *Dir) Open(name string) (Object, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(d.path, name))
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("snapshot: %s is no regular file", f.Name())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &dirObject{f, info.Size()}, nil
}

type dirObject struct {
	*os.File
	size int64
}

func (o *dirObject) Size() int64 { return o.size }

// Remove removes an object.
func (d *Dir) Remove(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return os.Remove(filepath.Join(d.path, name))
}

// List lists the directory.
func (d *Dir) List() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, fmt.Errorf("snapshot directory: %w", err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// RemoveDir removes the directory if it is empty.
func (d *Dir) RemoveDir() error {
	err := os.Remove(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
