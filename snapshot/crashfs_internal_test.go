package snapshot

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// crashFS is a model of a file system that promises no more than POSIX does: a
// crash may take away every change to a directory since that directory was
// synced, each one by itself, and the bytes of every file since the file was.
// It keeps a log of what was done, from which crashStates makes what can be
// found after a crash.
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

// crashOp is one step: of the names in a directory, of a file's bytes, a sync,
// or a mark of the test.
type crashOp struct {
	dir  uint64
	sets map[string]*crashNode // nil: the name goes

	file *crashNode
	data []byte // all of the file's, from now on

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

// set changes names of a directory, as one step.
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
	return fileInfo{id: fileID{1, n.ino}, mode: unix.S_IFREG}, nil
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

// change replaces a file's bytes by what f makes of a copy of them.
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

// disk is what a crash cannot take away, and what it can.
type disk struct {
	entries map[uint64]map[string]*crashNode // by directory
	pending []crashOp                        // changes of names
	data    map[uint64][]byte                // by file, as it was synced
	dirty   map[uint64][]byte                // by file, written since
}

func (d *disk) names(dir uint64) map[string]*crashNode {
	if d.entries[dir] == nil {
		d.entries[dir] = map[string]*crashNode{}
	}
	return d.entries[dir]
}

func (d *disk) do(op crashOp) {
	switch {
	case op.sets != nil:
		d.pending = append(d.pending, op)
	case op.file != nil:
		d.dirty[op.file.ino] = op.data
	case op.sync != 0:
		if data, written := d.dirty[op.sync]; written {
			d.data[op.sync] = data
			delete(d.dirty, op.sync)
		}
		d.pending = slices.DeleteFunc(d.pending, func(p crashOp) bool {
			if p.dir == op.sync {
				apply(d.names(p.dir), p.sets)
			}
			return p.dir == op.sync
		})
	}
}

// maxSubsets bounds the states of one moment that are looked at one by one.
const maxSubsets = 1 << 10

// crashStates calls check with every state in which a crash can leave the disk,
// and the mark before it. What can be found between two syncs can be found just
// before the second too, so that only moments before syncs and marks count.
func (f *crashFS) crashStates(check func(mark string, after *crashFS) error) (states int, err error) {
	d := &disk{entries: map[uint64]map[string]*crashNode{}, data: map[uint64][]byte{}, dirty: map[uint64][]byte{}}
	mark := ""
	random := rand.New(rand.NewPCG(9, 9))
	for i, op := range append(f.log, crashOp{mark: "end"}) {
		if op.sync != 0 || op.mark != "" {
			n := 1 << min(len(d.pending), 30)
			for k := range min(n, maxSubsets) {
				kept := k
				if n > maxSubsets {
					kept = random.IntN(n)
				}
				for _, lost := range []lostBytes{losesNone, losesAll, losesToZeros} {
					states++
					if err := check(mark, d.crash(f.root.ino, kept, lost)); err != nil {
						return states, fmt.Errorf("a crash before step %d, with %d of the last %d changes of names (%b), %s: %w",
							i, onesIn(kept), len(d.pending), kept, lost, err)
					}
				}
			}
		}
		d.do(op)
		if op.mark != "" {
			mark = op.mark
		}
	}
	return states, nil
}

func onesIn(n int) int { return strings.Count(fmt.Sprintf("%b", n), "1") }

// lostBytes is what becomes of bytes that were not synced.
type lostBytes string

const (
	losesNone    lostBytes = "all bytes written"
	losesAll     lostBytes = "unsynced bytes gone"
	losesToZeros lostBytes = "unsynced bytes zero"
)

// crash makes the file system that is found after a crash: the changes of names
// that kept has a bit for were written, and unsynced bytes as lost says.
func (d *disk) crash(root uint64, kept int, lost lostBytes) *crashFS {
	entries := map[uint64]map[string]*crashNode{}
	for dir, names := range d.entries {
		entries[dir] = maps.Clone(names)
	}
	for i, op := range d.pending {
		if kept>>i&1 == 0 {
			continue
		}
		if entries[op.dir] == nil {
			entries[op.dir] = map[string]*crashNode{}
		}
		apply(entries[op.dir], op.sets)
	}
	after := newCrashFS()
	var build func(into *crashNode, ino uint64)
	build = func(into *crashNode, ino uint64) {
		for name, old := range entries[ino] {
			n := after.node(into, old.entries != nil)
			into.entries[name] = n
			if n.entries != nil {
				build(n, old.ino)
				continue
			}
			n.data = d.data[old.ino]
			if dirty, written := d.dirty[old.ino]; written && lost == losesNone {
				n.data = dirty
			} else if written && lost == losesToZeros {
				n.data = make([]byte, len(dirty))
			}
		}
	}
	build(after.root, root)
	return after
}
