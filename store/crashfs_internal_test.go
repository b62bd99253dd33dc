package store

import (
	"bytes"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// crashFS is a model of a file system with the guarantees of POSIX and no more. A crash
// can lose each change of a directory since the last sync of that directory,
// independently of the others, and the bytes of each file since the last sync of the
// file. crashFS logs all operations, from which crashStates computes the possible
// states after a crash.
type crashFS struct {
	mu     sync.Mutex
	root   *crashNode
	log    []crashOp
	inodes uint64

	links     bool                            // rename is a link and an unlink
	dropsSync func(isDir bool, n uint64) bool // syncs that are not done: to see that the test notices
}

type crashNode struct {
	ino     uint64
	parent  *crashNode
	entries map[string]*crashNode // of a directory
	data    []byte
}

// crashOp is one operation: a change of names in a directory, a change of a file's
// bytes, a sync, or a mark of the test.
type crashOp struct {
	dir  uint64
	sets map[string]*crashNode // nil removes the name

	file *crashNode
	data []byte // new content of the file

	sync uint64
	mark string
}

func newCrashFS() *crashFS {
	f := &crashFS{}
	f.root = f.node(nil, true)
	return f
}

func (f *crashFS) node(parent *crashNode, dir bool) *crashNode {
	f.inodes++
	n := &crashNode{ino: f.inodes, parent: parent}
	if dir {
		n.entries = map[string]*crashNode{}
	}
	return n
}

func (f *crashFS) mark(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, crashOp{mark: what})
}

// set changes names of a directory in one operation.
func (f *crashFS) set(dir *crashNode, sets map[string]*crashNode) {
	apply(dir.entries, sets)
	f.log = append(f.log, crashOp{dir: dir.ino, sets: sets})
}

func apply(entries, sets map[string]*crashNode) {
	for name, n := range sets {
		if n == nil {
			delete(entries, name)
		} else {
			entries[name] = n
		}
	}
}

func (f *crashFS) synced(ino uint64, isDir bool) {
	if f.dropsSync == nil || !f.dropsSync(isDir, ino) {
		f.log = append(f.log, crashOp{sync: ino})
	}
}

func (f *crashFS) openDir(path string) (directory, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.root
	for _, name := range strings.FieldsFunc(path, func(c rune) bool { return c == '/' }) {
		if n = n.entries[name]; n == nil || n.entries == nil {
			return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		}
	}
	return &crashDir{f, n}, nil
}

type crashDir struct {
	fs *crashFS
	n  *crashNode
}

func (d *crashDir) fail(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func (d *crashDir) id() fileID   { return fileID{1, d.n.ino} }
func (d *crashDir) lock() error  { return nil }
func (d *crashDir) Close() error { return nil }

func (d *crashDir) openDir(name string) (directory, error) {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	if name == ".." {
		if d.n.parent == nil {
			return d, nil
		}
		return &crashDir{d.fs, d.n.parent}, nil
	}
	n := d.n.entries[name]
	if n == nil || n.entries == nil {
		return nil, d.fail("open", name, fs.ErrNotExist)
	}
	return &crashDir{d.fs, n}, nil
}

func (d *crashDir) add(op, name string, isDir bool) (*crashNode, error) {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	if d.n.entries[name] != nil {
		return nil, d.fail(op, name, fs.ErrExist)
	}
	n := d.fs.node(d.n, isDir)
	d.fs.set(d.n, map[string]*crashNode{name: n})
	return n, nil
}

func (d *crashDir) mkdir(name string) error {
	_, err := d.add("mkdir", name, true)
	return err
}

func (d *crashDir) create(name string) (file, error) {
	n, err := d.add("create", name, false)
	if err != nil {
		return nil, err
	}
	return &crashFile{fs: d.fs, n: n}, nil
}

func (d *crashDir) find(op, name string) (*crashNode, error) {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	if n := d.n.entries[name]; n != nil {
		return n, nil
	}
	return nil, d.fail(op, name, fs.ErrNotExist)
}

func (d *crashDir) open(name string) (file, error) {
	n, err := d.find("open", name)
	if err != nil {
		return nil, err
	}
	return &crashFile{fs: d.fs, n: n}, nil
}

func (d *crashDir) stat(name string) (fileInfo, error) {
	n, err := d.find("stat", name)
	if err != nil {
		return fileInfo{}, err
	}
	return fileInfo{id: fileID{1, n.ino}, size: int64(len(n.data)), mode: unix.S_IFREG}, nil
}

func (d *crashDir) rename(from, to string) error {
	n, err := d.find("rename", from)
	if err != nil {
		return err
	}
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	if d.n.entries[to] != nil {
		return d.fail("rename", to, fs.ErrExist)
	}
	if d.fs.links {
		d.fs.set(d.n, map[string]*crashNode{to: n})
		d.fs.set(d.n, map[string]*crashNode{from: nil})
	} else {
		d.fs.set(d.n, map[string]*crashNode{to: n, from: nil})
	}
	return nil
}

func (d *crashDir) remove(name string) error {
	if _, err := d.find("remove", name); err != nil {
		return err
	}
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	d.fs.set(d.n, map[string]*crashNode{name: nil})
	return nil
}

func (d *crashDir) removeDir(name string) error {
	n, err := d.find("remove", name)
	if err != nil {
		return err
	}
	if len(n.entries) > 0 {
		return d.fail("remove", name, unix.ENOTEMPTY)
	}
	return d.remove(name)
}

func (d *crashDir) list() ([]string, error) {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	return slices.Sorted(maps.Keys(d.n.entries)), nil
}

func (d *crashDir) sync() error {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	d.fs.synced(d.n.ino, true)
	return nil
}

type crashFile struct {
	fs *crashFS
	n  *crashNode
}

// change applies f to a copy of a file's bytes and replaces the bytes by the result.
func (f *crashFile) change(to func([]byte) []byte) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.n.data = to(bytes.Clone(f.n.data))
	f.fs.log = append(f.fs.log, crashOp{file: f.n, data: f.n.data})
}

func (f *crashFile) Write(p []byte) (int, error) {
	f.change(func(data []byte) []byte { return append(data, p...) })
	return len(p), nil
}

func (f *crashFile) WriteAt(p []byte, at int64) (int, error) {
	f.change(func(data []byte) []byte {
		if need := int(at) + len(p) - len(data); need > 0 {
			data = append(data, make([]byte, need)...)
		}
		copy(data[at:], p)
		return data
	})
	return len(p), nil
}

func (f *crashFile) Truncate(size int64) error {
	f.change(func(data []byte) []byte { return append(data, make([]byte, size)...)[:size] })
	return nil
}

func (f *crashFile) ReadAt(p []byte, at int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return bytes.NewReader(f.n.data).ReadAt(p, at)
}

func (f *crashFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.fs.synced(f.n.ino, false)
	return nil
}

func (f *crashFile) Close() error { return nil }

func (f *crashFile) stat() (fileInfo, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return fileInfo{id: fileID{1, f.n.ino}, size: int64(len(f.n.data)), mode: unix.S_IFREG}, nil
}

var (
	_ file      = (*crashFile)(nil)
	_ directory = (*crashDir)(nil)
	_ io.Writer = (*crashFile)(nil)
)
