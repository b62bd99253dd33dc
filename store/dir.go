package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Dir is a bucket in a directory of the local file system. It works on the
// directory that it opened, whatever its path names later. Close it in the end.
type Dir struct {
	path   string
	dir    directory
	fsys   fsys // nil unless it writes
	writes bool
	made   []madeDir // the outermost first

	mu    sync.Mutex
	wrote map[string]noted // the objects that were committed through it

	changes entryChanges
}

var _ Bucket = (*Dir)(nil)

// OpenDir opens a directory for reading. It takes no lock: objects may be
// written to it meanwhile.
func OpenDir(path string) (*Dir, error) { return openDir(osFS{}, path) }

func openDir(fsys fsys, path string) (*Dir, error) {
	dir, err := fsys.openDir(path)
	if errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("%s is no directory: %w", path, err)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("%w (name the directory that a save or receive made)", err)
	}
	if err != nil {
		return nil, err
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

// Create begins an object.
func (d *Dir) Create(ctx context.Context, name string) (Writer, error) {
	if err := errors.Join(CheckName(name), ended(ctx)); err != nil {
		return nil, err
	}
	if !d.writes {
		return nil, fmt.Errorf("store: %s is open for reading only (CreateDir opens it for writing)", d)
	}
	if _, err := d.dir.stat(name); err == nil {
		return nil, fmt.Errorf("store: object %s: %w", name, fs.ErrExist)
	}
	f, err := d.dir.create(name + partial)
	if err != nil {
		return nil, err
	}
	info, err := f.stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &dirWriter{f: f, own: noted{info.id, -1}, dir: d, name: name}, nil
}

// dirWriter writes NAME.partial.
type dirWriter struct {
	f    file // nil when it is sealed
	own  noted
	dir  *Dir
	name string
	bad  error // the seal failed
	over bool
}

func (w *dirWriter) closed(op string) error {
	return &fs.PathError{Op: op, Path: w.name, Err: fs.ErrClosed}
}

func (w *dirWriter) Write(ctx context.Context, p []byte) (int, error) {
	if w.f == nil {
		return 0, w.closed("write")
	}
	if err := ended(ctx); err != nil {
		return 0, err
	}
	return w.f.Write(p)
}

func (w *dirWriter) Seal(ctx context.Context) error {
	if w.f == nil {
		return w.closed("seal")
	}
	info, err := w.f.stat()
	if err == nil {
		err = ended(ctx)
	}
	if err == nil {
		err = w.f.Sync()
	}
	if closeErr := w.f.Close(); err == nil {
		err = closeErr
	}
	if w.f, w.bad = nil, err; err == nil {
		w.own.size = info.size
	}
	return err
}

func (w *dirWriter) Open(ctx context.Context) (Object, error) {
	if w.over || w.bad != nil {
		return nil, w.closed("open")
	}
	if w.f != nil {
		return nil, fmt.Errorf("store: object %s is read before it is sealed", w.name)
	}
	o, err := w.dir.open(ctx, w.name+partial)
	if err == nil && !w.own.is(o.info) {
		err = errors.Join(replaced(w.name+partial), o.Close())
	}
	if err != nil {
		return nil, err
	}
	return o, nil
}

func (w *dirWriter) Commit(ctx context.Context) error {
	if w.over {
		return w.closed("commit")
	}
	if w.f != nil {
		w.Seal(ctx) // publish passes the error on
	}
	w.over = true
	err := w.bad
	if err == nil {
		err = ended(ctx)
	}
	if err == nil {
		err = w.dir.checkPath()
	}
	d := w.dir
	before := d.note(w.name, w.own) // Remove may come once it is visible
	if err := publish(d.dir, w.own, w.name+partial, w.name, err); err != nil {
		d.note(w.name, before)
		return err
	}
	return d.changes.sync(d.dir)
}

func (w *dirWriter) Abort(context.Context) error {
	if w.over {
		return w.closed("abort")
	}
	w.over = true
	if w.f != nil {
		w.f.Close() // its bytes do not count any more
		w.f = nil
	}
	return removeOwn(w.dir.dir, w.name+partial, w.own)
}

// note notes which object of a name was committed through the Dir, and returns
// what was noted before; the zero value is none.
func (d *Dir) note(name string, own noted) (before noted) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before = d.wrote[name]
	if own == (noted{}) {
		delete(d.wrote, name)
	} else {
		d.wrote[name] = own
	}
	return before
}

func replaced(name string) error {
	return fmt.Errorf("%s is another file now than the one that this process wrote: both are left as they are", name)
}

// publish gives a file whose bytes are durable its last name, unless err says
// that something failed before. After an error the file is gone. The caller
// syncs the directory.
func publish(d directory, own noted, from, to string, err error) error {
	info, statErr := d.stat(from)
	if err == nil {
		err = statErr
	}
	if err == nil && !own.is(info) {
		return replaced(from)
	}
	if err == nil {
		err = d.rename(from, to)
	}
	if err == nil {
		return nil
	}
	if removeErr := removeOwn(d, from, own); !errors.Is(removeErr, fs.ErrNotExist) {
		err = errors.Join(err, removeErr)
	}
	return err
}

// entryChanges makes changes of a directory's entries durable. One sync serves
// all changes that were made before it began.
type entryChanges struct {
	made   atomic.Uint64
	mu     sync.Mutex
	synced uint64 // of those that were made
}

// sync returns when the caller's change, and all before it, are durable.
func (c *entryChanges) sync(d directory) error {
	own := c.made.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.synced >= own {
		return nil
	}
	made := c.made.Load()
	if err := d.sync(); err != nil {
		return err
	}
	c.synced = made
	return nil
}

// Open opens an object. What is no regular file is refused: a FIFO would block,
// a symbolic link can lead out of the directory.
func (d *Dir) Open(ctx context.Context, name string) (Object, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	o, err := d.open(ctx, name)
	if err != nil {
		return nil, err
	}
	return o, nil
}

func (d *Dir) open(ctx context.Context, name string) (*dirObject, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	f, err := d.dir.open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &dirObject{f, info}, nil
}

type dirObject struct {
	f    file
	info fileInfo
}

func (o *dirObject) ReadAt(ctx context.Context, p []byte, offset int64) (int, error) {
	if err := ended(ctx); err != nil {
		return 0, err
	}
	return o.f.ReadAt(p, offset)
}

func (o *dirObject) Size() int64  { return o.info.size }
func (o *dirObject) Close() error { return o.f.Close() }

// Remove removes an object that was committed through this Dir.
func (d *Dir) Remove(ctx context.Context, name string) error {
	if err := errors.Join(CheckName(name), ended(ctx)); err != nil {
		return err
	}
	d.mu.Lock()
	own := d.wrote[name] // no file is the zero one
	d.mu.Unlock()
	if err := removeOwn(d.dir, name, own); err != nil {
		return err
	}
	d.note(name, noted{})
	return d.changes.sync(d.dir)
}

// List lists the directory.
func (d *Dir) List(ctx context.Context) ([]string, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	names, err := d.dir.list()
	if err != nil {
		return nil, fmt.Errorf("directory of objects: %w", err)
	}
	return names, nil
}
