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

// Dir is a Bucket in a directory of the local file system. It works on the directory
// that it opened, even if its path names another one later. The owner closes it.
type Dir struct {
	path   string
	dir    directory
	fsys   fsys // nil if open for reading
	writes bool
	made   []madeDir // the outermost first

	mu        sync.Mutex
	committed map[string]fileKey // the objects that were committed through this Dir

	changes entryChanges
}

var _ Bucket = (*Dir)(nil)

// OpenDir opens a directory for reading. It takes no lock, so a writer may add objects
// at the same time.
func OpenDir(path string) (*Dir, error) { return openDir(osFS{}, path) }

func openDir(fsys fsys, path string) (*Dir, error) {
	dir, err := fsys.openDir(path)
	if errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("%w (name the directory of a snapshot)", err)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("%w (name the directory that a save or receive made)", err)
	}
	if err != nil {
		return nil, err
	}
	return &Dir{path: path, dir: dir}, nil
}

// Close closes the directory and releases the lock of CreateDir. Open objects stay
// open.
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

// String returns the path of the directory.
func (d *Dir) String() string { return d.path }

// partial is the suffix of the name of an object that is not committed.
const partial = ".partial"

// Create begins an object as a file NAME.partial with mode 0600.
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
	return &dirWriter{f: f, own: fileKey{info.id, -1}, dir: d, name: name}, nil
}

// dirWriter writes the file NAME.partial.
type dirWriter struct {
	f       file // nil once sealed
	own     fileKey
	dir     *Dir
	name    string
	sealErr error // of a seal that failed
	ended   bool  // committed or aborted
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
	if w.f, w.sealErr = nil, err; err == nil {
		w.own.size = info.size
	}
	return err
}

func (w *dirWriter) Open(ctx context.Context) (Object, error) {
	if w.ended || w.sealErr != nil {
		return nil, w.closed("open")
	}
	if w.f != nil {
		return nil, fmt.Errorf("store: cannot open object %s before it is sealed", w.name)
	}
	o, err := w.dir.open(ctx, w.name+partial)
	if err == nil && !w.own.matches(o.info) {
		err = errors.Join(replaced(w.name+partial), o.Close())
	}
	if err != nil {
		return nil, err
	}
	return o, nil
}

func (w *dirWriter) Commit(ctx context.Context) error {
	if w.ended {
		return w.closed("commit")
	}
	if w.f != nil {
		w.Seal(ctx) // publish returns the error
	}
	w.ended = true
	err := w.sealErr
	if err == nil {
		err = ended(ctx)
	}
	if err == nil {
		err = w.dir.checkPath()
	}
	d := w.dir
	before := d.setCommitted(w.name, w.own) // a caller may remove the object once it is visible
	if err := publish(d.dir, w.own, w.name+partial, w.name, err); err != nil {
		d.setCommitted(w.name, before)
		return err
	}
	return d.changes.sync(d.dir)
}

func (w *dirWriter) Abort(context.Context) error {
	if w.ended {
		return w.closed("abort")
	}
	w.ended = true
	if w.f != nil {
		w.f.Close() // the bytes are discarded, so an error does not matter
		w.f = nil
	}
	return removeOwn(w.dir.dir, w.name+partial, w.own)
}

// setCommitted records the file that was committed under a name through this Dir. It
// returns the previous record. The zero fileKey is no file.
func (d *Dir) setCommitted(name string, own fileKey) (before fileKey) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before = d.committed[name]
	if own == (fileKey{}) {
		delete(d.committed, name)
	} else {
		d.committed[name] = own
	}
	return before
}

func replaced(name string) error {
	return fmt.Errorf("store: %s was replaced by another file (both files are kept)", name)
}

// publish renames a file whose bytes are durable to its final name. If err is not nil
// or the rename fails, publish removes the file and returns the error. The caller syncs
// the directory.
func publish(d directory, own fileKey, from, to string, err error) error {
	info, statErr := d.stat(from)
	if err == nil {
		err = statErr
	}
	if err == nil && !own.matches(info) {
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

// entryChanges makes changes of a directory's entries durable. One sync covers all
// changes that were made before it began.
type entryChanges struct {
	made   atomic.Uint64 // number of changes
	mu     sync.Mutex
	synced uint64 // number of changes that are durable
}

// sync returns when the caller's change and all earlier changes are durable.
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

// Open opens an object. It refuses an entry that is not a regular file with
// ErrNotObject: a FIFO would block, and a symbolic link can lead out of the directory.
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
	own := d.committed[name] // the zero fileKey matches no file
	d.mu.Unlock()
	if err := removeOwn(d.dir, name, own); err != nil {
		return err
	}
	d.setCommitted(name, fileKey{})
	return d.changes.sync(d.dir)
}

// List returns the sorted names of all entries of the directory.
func (d *Dir) List(ctx context.Context) ([]string, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	names, err := d.dir.list()
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return names, nil
}
