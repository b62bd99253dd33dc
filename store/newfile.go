package store

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// NewFile is a file for an export. It has a temporary name beside its last one,
// NAME.partial, until it is committed: so there is never half an export under the
// last name, whatever ends the process.
type NewFile struct {
	file
	path      string
	dir       directory
	name      string // the last one
	temporary string
	own       noted
	over      bool
}

// CreateFile begins a file. It fails with fs.ErrExist if there is anything of
// that name, a symbolic link or a FIFO included, or of the temporary one.
func CreateFile(path string) (*NewFile, error) { return createFile(osFS{}, path) }

func createFile(fsys fsys, path string) (_ *NewFile, err error) {
	above, name := splitPath(path)
	if name == "" {
		return nil, fmt.Errorf("create %q: it has no name for a file", path)
	}
	dir, err := fsys.openDir(above)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			dir.Close()
		}
	}()
	f := &NewFile{path: path, dir: dir, name: name, temporary: name[:min(len(name), unix.NAME_MAX-len(partial))] + partial}
	if info, err := dir.stat(name); err == nil {
		return nil, &fs.PathError{Op: "create", Path: path, Err: fmt.Errorf("%w: it is %s (name another file, or remove it)", unix.EEXIST, info.kind())}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if f.file, err = dir.create(f.temporary); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: another export is writing it, or one that was killed left it behind (remove it then)", err)
	} else if err != nil {
		return nil, err
	}
	info, err := f.file.stat()
	if err != nil {
		return nil, errors.Join(err, f.file.Close())
	}
	f.own = noted{info.id, -1}
	return f, nil
}

// Commit makes the file durable and gives it its last name, which it does not
// take from another file. After an error nothing is left of it.
func (f *NewFile) Commit() error {
	if f.over {
		return &fs.PathError{Op: "commit", Path: f.path, Err: fs.ErrClosed}
	}
	f.over = true
	defer f.dir.Close()
	err := f.file.Sync()
	if closeErr := f.file.Close(); err == nil {
		err = closeErr
	}
	if err := publish(f.dir, f.own, f.temporary, f.name, err); err != nil {
		return err
	}
	if err := f.dir.sync(); err != nil {
		return errors.Join(err, removeOwn(f.dir, f.name, f.own))
	}
	return nil
}

// Abort removes the file, unless it is committed.
func (f *NewFile) Abort() error {
	if f.over {
		return nil
	}
	f.over = true
	defer f.dir.Close()
	return errors.Join(f.file.Close(), removeOwn(f.dir, f.temporary, f.own))
}
