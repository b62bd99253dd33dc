package snapshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Bucket holds the objects of one snapshot. Names are plain, without a
// separator. An object is written once, from its start to its end.
type Bucket interface {
	// Create begins an object. It appears, whole, when it is committed.
	Create(name string) (ObjectWriter, error)
	// Open opens an object; fs.ErrNotExist if there is none. It does not wait:
	// what is no object, such as a FIFO, is refused.
	Open(name string) (Object, error)
	// Remove removes an object that was committed through this bucket;
	// fs.ErrNotExist if there is nothing of that name. What another put there
	// under the name stays, and the error says so.
	Remove(name string) error
	// List lists what is there, begun objects included.
	List() ([]string, error)
	// String names the bucket for errors.
	String() string
}

// ObjectWriter writes one object.
type ObjectWriter interface {
	io.Writer
	// Commit makes the object durable, and visible under its name: once it
	// returns nil, a loss of power takes neither the bytes nor the name away.
	// It never replaces what has that name meanwhile; that is fs.ErrExist.
	// After an error the object may be visible, but nothing else is left of
	// it.
	Commit() error
	// Abort removes what was written, and nothing else.
	Abort() error
}

// Object reads one object. Several goroutines may.
type Object interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Dir is a bucket in a directory of the local file system. It works on the
// directory that it opened, whatever its path names later. Close it in the end.
type Dir struct {
	path   string
	dir    directory
	fsys   fsys // nil unless it writes
	writes bool
	made   []madeDir // the outermost first

	mu    sync.Mutex
	wrote map[string]fileID // the objects that were committed through it
}

// OpenDir opens the directory of a snapshot for reading. It takes no lock: of
// a snapshot that is being written, Open says that it is not complete.
func OpenDir(path string) (*Dir, error) { return openDir(osFS{}, path) }

func openDir(fsys fsys, path string) (*Dir, error) {
	dir, err := fsys.openDir(path)
	if errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("snapshot: %s is no directory: %w", path, err)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("snapshot: %w (name the directory that a save or receive made)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	return &Dir{path: path, dir: dir}, nil
}

// Close ends the use of the directory, and with it the lock that CreateDir took.
// Objects that are open stay open.
func (d *Dir) Close() error {
	for _, m := range d.made {
		m.parent.Close()
	}
	d.made = nil
	if d.dir == nil {
		return nil
	}
	return d.dir.Close()
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
	if !d.writes {
		return nil, fmt.Errorf("snapshot: %s is open for reading only (CreateDir opens it for writing)", d)
	}
	if _, err := d.dir.stat(name); err == nil {
		return nil, fmt.Errorf("snapshot: object %s: %w", name, fs.ErrExist)
	}
	f, err := d.dir.create(name + partial)
	if err != nil {
		return nil, err
	}
	info, err := f.stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &dirObjectWriter{Writer: f, f: f, id: info.id, dir: d, name: name}, nil
}

type dirObjectWriter struct {
	io.Writer // f's
	f         file
	id        fileID
	dir       *Dir
	name      string
}

func (w *dirObjectWriter) Commit() error {
	d := w.dir.dir
	if w.name == manifestName {
		if err := w.dir.checkPath(); err != nil {
			return errors.Join(err, w.Abort())
		}
	}
	before := w.dir.own(w.name, w.id) // Remove may come once it is visible
	if err := publish(d, w.f, w.id, w.name+partial, w.name); err != nil {
		w.dir.own(w.name, before)
		return err
	}
	return d.sync()
}

// own notes which object of a name was committed through the Dir, and returns
// what it was before; the zero fileID is none.
func (d *Dir) own(name string, id fileID) (before fileID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before = d.wrote[name]
	if id == (fileID{}) {
		delete(d.wrote, name)
	} else {
		d.wrote[name] = id
	}
	return before
}

// publish makes the bytes of a file durable, closes it and gives it its last
// name. After an error the file is gone. The caller syncs the directory.
func publish(d directory, f file, id fileID, from, to string) error {
	err := f.Sync()
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if errors.Is(err, fs.ErrClosed) {
		return err // it was committed or aborted before
	}
	info, statErr := d.stat(from)
	if err == nil {
		err = statErr
	}
	if err == nil && info.id != id {
		return fmt.Errorf("%s is another file now than the one that this process wrote: both are left as they are", from)
	}
	if err == nil {
		err = d.rename(from, to)
	}
	if err == nil {
		return nil
	}
	if removeErr := removeOwn(d, from, id); !errors.Is(removeErr, fs.ErrNotExist) {
		err = errors.Join(err, removeErr)
	}
	return err
}

func (w *dirObjectWriter) Abort() error {
	if err := w.f.Close(); errors.Is(err, fs.ErrClosed) {
		return err
	}
	return removeOwn(w.dir.dir, w.name+partial, w.id)
}

// Open opens an object. What is no regular file is refused: a FIFO would block,
// a symbolic link can lead out of the directory.
func (d *Dir) Open(name string) (Object, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	f, err := d.dir.open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &dirObject{f, info.size}, nil
}

type dirObject struct {
	file
	size int64
}

func (o *dirObject) Size() int64 { return o.size }

// Remove removes an object that was committed through this Dir. The removal of
// the manifest is durable when Remove returns, so that no crash brings it back
// to a snapshot whose objects are gone.
func (d *Dir) Remove(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	d.mu.Lock()
	id := d.wrote[name] // no file has the zero one
	d.mu.Unlock()
	if err := removeOwn(d.dir, name, id); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	d.own(name, fileID{})
	if name == manifestName {
		return d.dir.sync()
	}
	return nil
}

// List lists the directory.
func (d *Dir) List() ([]string, error) {
	names, err := d.dir.list()
	if err != nil {
		return nil, fmt.Errorf("snapshot directory: %w", err)
	}
	return names, nil
}
