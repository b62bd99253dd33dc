package store

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// NewFile is a file that appears under its name when it is complete, such as an export.
// Until Commit it has the temporary name NAME.partial in the same directory. So an
// incomplete file never has the final name, even if the process is killed.
type NewFile struct {
	file
	path      string
	dir       directory
	name      string // final name
	temporary string
	own       fileKey
	ended     bool // committed or aborted
}

// CreateFile begins a file with mode 0600. It fails with fs.ErrExist if an entry with
// the final or the temporary name exists, even a symbolic link or a FIFO. The caller
// ends the file with Commit or Abort.
func CreateFile(path string) (*NewFile, error) { return createFile(osFS{}, path) }

func createFile(fsys fsys, path string) (_ *NewFile, err error) {
	above, name := splitPath(path)
	if name == "" {
		return nil, fmt.Errorf("create %q: the path names no file", path)
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
		return nil, &fs.PathError{Op: "create", Path: path, Err: fmt.Errorf("%w: the path is %s (name another file, or remove it)", unix.EEXIST, info.kind())}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if f.file, err = dir.create(f.temporary); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: another export is writing the file, or a killed export left it behind (in that case, remove it)", err)
	} else if err != nil {
		return nil, err
	}
	info, err := f.file.stat()
	if err != nil {
		return nil, errors.Join(err, f.file.Close())
	}
	f.own = fileKey{info.id, -1}
	return f, nil
}

// Commit makes the file durable and gives it its final name. It does not replace
// another file of that name: then it fails with fs.ErrExist. After an error the file is
// removed.
func (f *NewFile) Commit() error {
	if f.ended {
		return &fs.PathError{Op: "commit", Path: f.path, Err: fs.ErrClosed}
	}
	f.ended = true
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

// Abort removes the file. It does nothing after Commit or Abort.
func (f *NewFile) Abort() error {
	if f.ended {
		return nil
	}
	f.ended = true
	defer f.dir.Close()
	return errors.Join(f.file.Close(), removeOwn(f.dir, f.temporary, f.own))
}
