package store

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrInUse is wrapped if another process, or another Dir of this process, is
// writing to the directory.
var ErrInUse = errors.New("store: directory in use")

// madeDir is a directory that this process created.
type madeDir struct {
	parent directory
	name   string
	id     fileID
}

// CreateDir opens a directory for writing. It creates the directory and its missing
// parents with mode 0700. When it returns, the entries of all directories above are
// durable.
//
// The directory is locked until Close: another CreateDir of the same directory fails
// with ErrInUse. The lock is on the open directory, so it leaves no file behind and
// ends with the process. On a file system that cannot lock a directory (some network
// file systems), two writers do not overwrite or remove each other's objects, but one
// of them may fail late.
func CreateDir(path string) (*Dir, error) { return createDir(osFS{}, path) }

// errReplaced makes createDir try again.
var errReplaced = errors.New("the directory was replaced while it was opened")

func createDir(fsys fsys, path string) (*Dir, error) {
	var err error
	for range 100 {
		// Another process may remove a directory that it created between two
		// steps. Then create the path again.
		var d *Dir
		if d, err = tryCreateDir(fsys, path); err == nil {
			return d, nil
		}
		if !errors.Is(err, errReplaced) && !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if errors.Is(err, ErrInUse) {
		return nil, err
	}
	if errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("store: %w (name a directory that does not exist yet, or an empty one)", err)
	}
	return nil, fmt.Errorf("store: %w", err)
}

func tryCreateDir(fsys fsys, path string) (_ *Dir, err error) {
	d := &Dir{path: path, fsys: fsys, writes: true, committed: map[string]fileKey{}}
	defer func() {
		if err != nil {
			d.RemoveDir() // best effort: it removes only empty directories
			d.Close()
		}
	}()
	if d.dir, err = d.openOrCreate(fsys, path); err != nil {
		return nil, err
	}
	switch err := d.dir.lock(); {
	case err == errLocked:
		return nil, fmt.Errorf("%w: %s is writing to %s (wait for its end, or name another directory)", ErrInUse, holder(d.dir.id(), path), path)
	case err != nil:
		return nil, err
	}
	// The previous holder of the lock may have removed the directory.
	again, err := fsys.openDir(path)
	if err != nil {
		return nil, err
	}
	defer again.Close()
	if again.id() != d.dir.id() {
		return nil, errReplaced
	}
	return d, syncAbove(d.dir)
}

// openOrCreate opens a directory. It creates the directory and its missing parents.
func (d *Dir) openOrCreate(fsys fsys, path string) (directory, error) {
	dir, err := fsys.openDir(path)
	above, name := splitPath(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) || name == "" {
		return dir, err
	}
	parent, err := d.openOrCreate(fsys, above)
	if err != nil {
		return nil, err
	}
	err = parent.mkdir(name)
	if errors.Is(err, fs.ErrExist) { // another process created it in the meantime
		defer parent.Close()
		return parent.openDir(name)
	}
	if err != nil {
		parent.Close()
		return nil, err
	}
	info, err := parent.stat(name)
	if err != nil {
		parent.Close()
		return nil, err
	}
	d.made = append(d.made, madeDir{parent, name, info.id})
	if err := parent.sync(); err != nil {
		return nil, err
	}
	if dir, err = parent.openDir(name); err != nil {
		return nil, err
	}
	if dir.id() != info.id {
		dir.Close()
		return nil, errReplaced
	}
	return dir, nil
}

// splitPath splits a path before its last name. Like the kernel, it does not simplify
// "link/..". The name is "" for the root.
func splitPath(path string) (above, name string) {
	trimmed := strings.TrimRight(path, "/")
	i := strings.LastIndexByte(trimmed, '/')
	switch name = trimmed[i+1:]; {
	case i < 0:
		return ".", name
	case i == 0:
		return "/", name
	}
	return trimmed[:i], name
}

// checkPath returns an error if the path does not lead to the directory any more: the
// user would not find the objects.
func (d *Dir) checkPath() error {
	now, err := d.fsys.openDir(d.path)
	if err != nil {
		return fmt.Errorf("store: the directory was moved or removed during writing: %w", err)
	}
	defer now.Close()
	if now.id() != d.dir.id() {
		return fmt.Errorf("store: %s was replaced by another directory during writing", d.path)
	}
	return nil
}

// syncAbove makes the entries that lead to a directory durable, up to the root of its
// file system. It also syncs entries that another process may have created in the
// meantime. It stops at a directory that this process may not open, because this
// process did not create that directory's entries.
func syncAbove(dir directory) error {
	at := dir
	for {
		above, err := at.openDir("..")
		if at != dir {
			at.Close()
		}
		if err != nil {
			if errors.Is(err, fs.ErrPermission) {
				return nil
			}
			return err
		}
		if above.id() == at.id() || above.id().dev != at.id().dev {
			return above.Close()
		}
		if err := above.sync(); err != nil {
			return errors.Join(err, above.Close())
		}
		at = above
	}
}

// RemoveDir removes the directories that CreateDir created: the directory itself and
// its empty parents. It does not remove a directory that existed before, or one that
// has replaced a created directory. It returns an error if the directory is not empty.
// Call RemoveDir before Close, which releases the lock.
func (d *Dir) RemoveDir() error {
	for _, m := range slices.Backward(d.made) {
		if d.dir != nil && d.dir.id() == m.id {
			if err := d.removeOwnDir(m); err != nil {
				return err
			}
			continue
		}
		above, err := m.parent.openDir(m.name)
		if err != nil {
			continue // removed, or replaced by a file
		}
		err = m.remove(above)
		above.Close()
		if err != nil {
			return nil // in use for something else
		}
	}
	return nil
}

func (d *Dir) removeOwnDir(m madeDir) error {
	err := m.remove(d.dir)
	switch {
	case err == nil || errors.Is(err, fs.ErrNotExist) || err == errLocked:
		return nil
	case errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST):
		return fmt.Errorf("store: %s is not removed: it holds files that this process did not write: %w", d.path, err)
	}
	return fmt.Errorf("store: %w", err)
}

// remove removes the directory if it is empty, not locked, and still the one that this
// process created. CreateDir of another process checks that the directory still exists
// after it has the lock, so remove never removes a directory that is in use.
func (m madeDir) remove(own directory) error {
	if err := own.lock(); err != nil {
		return err
	}
	info, err := m.parent.stat(m.name)
	if err != nil {
		return err
	}
	if info.id != m.id {
		return fmt.Errorf("%s is not removed: it is not the directory that this process created", m.name)
	}
	return m.parent.removeDir(m.name)
}
