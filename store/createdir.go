package store

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrInUse is wrapped when another process, or another Dir of this one, is
// writing to the directory.
var ErrInUse = errors.New("the directory is in use")

// madeDir is a directory that this process made.
type madeDir struct {
	parent directory
	name   string
	id     fileID
}

// CreateDir makes a directory for objects, with the directories above it that
// are missing, or takes one that is there. The entries of all directories above
// it are durable when it returns.
//
// Until Close, the directory is locked: another CreateDir of it fails with
// ErrInUse. The lock is on the open directory, so that it leaves no file behind
// and ends with the process. Where the file system cannot lock a directory (some
// network file systems), two writers still do not write over or remove what is
// the other's, but one of them may fail late.
func CreateDir(path string) (*Dir, error) { return createDir(osFS{}, path) }

// errReplaced is why createDir tries again.
var errReplaced = errors.New("the directory was replaced while it was being opened")

func createDir(fsys fsys, path string) (*Dir, error) {
	var err error
	for range 100 {
		// Another process may remove a directory, which it made, between
		// two steps: then the way is made once more.
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
		return nil, fmt.Errorf("directory of objects: %w (name a directory that does not exist yet, or an empty one)", err)
	}
	return nil, fmt.Errorf("directory of objects: %w", err)
}

func tryCreateDir(fsys fsys, path string) (_ *Dir, err error) {
	d := &Dir{path: path, fsys: fsys, writes: true, wrote: map[string]noted{}}
	defer func() {
		if err != nil {
			d.RemoveDir() // err is what counts; only empty directories are removed
			d.Close()
		}
	}()
	if d.dir, err = d.reach(fsys, path); err != nil {
		return nil, err
	}
	switch err := d.dir.lock(); {
	case err == errLocked:
		return nil, fmt.Errorf("%w: %s is writing a snapshot to %s; wait for its end or save to another name", ErrInUse, holder(d.dir.id(), path), path)
	case err != nil:
		return nil, err
	}
	// Who held the lock before may have removed the directory.
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

// reach opens a directory and makes what is missing on the way.
func (d *Dir) reach(fsys fsys, path string) (directory, error) {
	dir, err := fsys.openDir(path)
	above, name := splitPath(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) || name == "" {
		return dir, err
	}
	parent, err := d.reach(fsys, above)
	if err != nil {
		return nil, err
	}
	err = parent.mkdir(name)
	if errors.Is(err, fs.ErrExist) { // another made it a moment ago
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

// splitPath splits a path before its last name, as the kernel does: without
// taking "link/.." for nothing. The name is "" if there is nothing above.
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

// checkPath looks whether the path still leads to the directory. Objects that
// are complete elsewhere are not found by the user.
func (d *Dir) checkPath() error {
	now, err := d.fsys.openDir(d.path)
	if err != nil {
		return fmt.Errorf("the directory that the objects are written to is not at its path any more: %w", err)
	}
	defer now.Close()
	if now.id() != d.dir.id() {
		return fmt.Errorf("%s is another directory now than the one that the objects are written to: it was moved or replaced meanwhile", d.path)
	}
	return nil
}

// syncAbove makes the entries durable that lead to a directory, up to the root
// of its file system. Another process may have made them a moment ago. What
// this process may not open, it did not make.
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

// RemoveDir removes what CreateDir made: the directory, if this process made it,
// and those above it that it made and that are empty. A directory that was there
// before stays, and so does one that has taken its place. It is an error if the
// directory is not empty. Call it before Close, which ends the lock.
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
			continue // it is gone, or a file by now
		}
		err = m.remove(above)
		above.Close()
		if err != nil {
			return nil // it is in use for something else by now
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
		return fmt.Errorf("directory of objects: %s stays: it holds what this process did not make: %w", d.path, err)
	}
	return fmt.Errorf("directory of objects: %w", err)
}

// remove removes the directory if it is empty, still the one that was made, and
// not locked. CreateDir of another process looks, after it has the lock,
// whether the directory is still there: so none is removed below it.
func (m madeDir) remove(own directory) error {
	if err := own.lock(); err != nil {
		return err
	}
	info, err := m.parent.stat(m.name)
	if err != nil {
		return err
	}
	if info.id != m.id {
		return fmt.Errorf("%s is another directory now than the one that this process made: it stays", m.name)
	}
	return m.parent.removeDir(m.name)
}
