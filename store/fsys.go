package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// fsys is the file system of a Dir and a NewFile: the operations whose order and
// durability they depend on. Tests replace it by a model that loses changes that were
// not synced.
type fsys interface {
	// openDir opens a directory. It follows a symbolic link at the end of path,
	// because the user named the link.
	openDir(path string) (directory, error)
}

// directory is an open directory. It stays the same directory when another one takes
// its path. Names are names of its entries. Methods follow no symbolic link.
type directory interface {
	io.Closer
	id() fileID
	// openDir opens a directory of the directory, or its parent for "..".
	openDir(name string) (directory, error)
	mkdir(name string) error
	// create creates a file. It fails with fs.ErrExist if the name exists.
	create(name string) (file, error)
	// open opens a regular file for reading. It refuses any other entry without
	// opening it.
	open(name string) (file, error)
	// stat returns the description of an entry.
	stat(name string) (fileInfo, error)
	// rename renames a file. It fails with fs.ErrExist if the new name exists.
	rename(from, to string) error
	remove(name string) error
	removeDir(name string) error
	// list returns the names of the entries, sorted.
	list() ([]string, error)
	// lock locks the directory until it is closed. It returns errLocked if
	// another descriptor holds the lock.
	lock() error
	// sync makes the entries durable.
	sync() error
}

// file is an open file.
type file interface {
	io.Writer
	io.WriterAt
	io.ReaderAt
	io.Closer
	Truncate(size int64) error
	Sync() error
	stat() (fileInfo, error)
}

// fileID identifies a file or directory on this host.
type fileID struct{ dev, ino uint64 }

type fileInfo struct {
	id   fileID
	size int64
	mode uint32 // as in stat(2)
}

// fileKey identifies a file that this process wrote.
type fileKey struct {
	id fileID
	// size is the size of a closed file, or -1 for an open one. If a closed file
	// is removed, another file can get its inode number, so size is compared too.
	size int64
}

func (k fileKey) matches(i fileInfo) bool { return i.id == k.id && (k.size < 0 || i.size == k.size) }

// kind names the kind of an entry.
func (i fileInfo) kind() string {
	switch i.mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "a regular file"
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFLNK:
		return "a symbolic link"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFBLK:
		return "a block device"
	case unix.S_IFCHR:
		return "a character device"
	}
	return "of an unknown kind"
}

// errLocked reports that another descriptor holds the lock.
var errLocked = errors.New("locked")

// removeOwn removes the file own. It fails if another file has taken the name.
func removeOwn(d directory, name string, own fileKey) error {
	info, err := d.stat(name)
	if err != nil {
		return err
	}
	if !own.matches(info) {
		return fmt.Errorf("store: %s is not removed: it is not the file that this process wrote", name)
	}
	return d.remove(name)
}

// osFS is the operating system's file system.
type osFS struct{}

func (osFS) openDir(path string) (directory, error) {
	return openDirAt(unix.AT_FDCWD, path, path, 0)
}

// osDir is an open directory of the operating system.
type osDir struct {
	f     *os.File
	ident fileID
}

func openDirAt(at int, name, path string, flags int) (directory, error) {
	fd, err := openAt(at, name, unix.O_RDONLY|unix.O_DIRECTORY|flags, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	d := &osDir{f: os.NewFile(uintptr(fd), path)}
	info, err := statFD(fd)
	if err != nil {
		d.Close()
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	d.ident = info.id
	return d, nil
}

func openAt(at int, name string, flags int, mode uint32) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Openat(at, name, flags|unix.O_CLOEXEC, mode)
		return err
	})
	return fd, err
}

// retry repeats a call that a signal interrupts.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

func statFD(fd int) (fileInfo, error) {
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstat(fd, &st) })
	return infoOf(&st), err
}

func infoOf(st *unix.Stat_t) fileInfo {
	return fileInfo{id: fileID{uint64(st.Dev), st.Ino}, size: st.Size, mode: st.Mode}
}

// do calls f with the descriptor. The descriptor cannot be closed during the call.
func (d *osDir) do(op, name string, f func(fd int) error) error {
	raw, err := d.f.SyscallConn()
	if err != nil {
		return err
	}
	var opErr error
	if err := raw.Control(func(fd uintptr) { opErr = retry(func() error { return f(int(fd)) }) }); err != nil {
		return &fs.PathError{Op: op, Path: d.path(name), Err: fs.ErrClosed}
	}
	if opErr != nil {
		return &fs.PathError{Op: op, Path: d.path(name), Err: opErr}
	}
	return nil
}

func (d *osDir) path(name string) string { return filepath.Join(d.f.Name(), name) }

func (d *osDir) id() fileID   { return d.ident }
func (d *osDir) Close() error { return d.f.Close() }

func (d *osDir) openDir(name string) (dir directory, err error) {
	doErr := d.do("open", name, func(fd int) error {
		dir, err = openDirAt(fd, name, d.path(name), unix.O_NOFOLLOW)
		return nil
	})
	if err = errors.Join(doErr, err); err != nil {
		return nil, err
	}
	return dir, nil
}

func (d *osDir) mkdir(name string) error {
	return d.do("mkdir", name, func(fd int) error { return unix.Mkdirat(fd, name, 0o700) })
}

func (d *osDir) create(name string) (file, error) {
	return d.openFile("create", name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW)
}

func (d *osDir) open(name string) (file, error) {
	info, err := d.stat(name)
	if err == nil {
		err = regular(info, d.path(name))
	}
	if err != nil {
		return nil, err
	}
	// Another file can take the name between the two calls. So open without
	// following a link or waiting for the writer of a FIFO, and check again.
	f, err := d.openFile("open", name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_NOCTTY)
	if err != nil {
		return nil, err
	}
	if info, err = f.stat(); err == nil {
		err = regular(info, d.path(name))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func regular(info fileInfo, path string) error {
	if info.mode&unix.S_IFMT == unix.S_IFREG {
		return nil
	}
	return fmt.Errorf("%w: %s is %s, not a regular file (each object of a snapshot is a regular file)", ErrNotObject, path, info.kind())
}

func (d *osDir) openFile(op, name string, flags int) (file, error) {
	var opened int
	err := d.do(op, name, func(fd int) (err error) {
		opened, err = openAt(fd, name, flags, 0o600)
		return err
	})
	if err != nil {
		return nil, err
	}
	if flags&unix.O_NONBLOCK != 0 {
		unix.SetNonblock(opened, false)
	}
	return &osFile{File: os.NewFile(uintptr(opened), d.path(name))}, nil
}

func (d *osDir) stat(name string) (info fileInfo, err error) {
	err = d.do("stat", name, func(fd int) error {
		var st unix.Stat_t
		err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		info = infoOf(&st)
		return err
	})
	return info, err
}

// renameat2 is a variable so that tests can model a file system without it.
var renameat2 = unix.Renameat2

func (d *osDir) rename(from, to string) error {
	return d.do("rename to", to, func(fd int) error {
		err := renameat2(fd, from, fd, to, unix.RENAME_NOREPLACE)
		if err != unix.EINVAL && err != unix.ENOSYS {
			return err
		}
		// The file system has no rename without replacement, but link never
		// replaces a file.
		if err = unix.Linkat(fd, from, fd, to, 0); err == nil {
			return unix.Unlinkat(fd, from, 0)
		}
		if err != unix.EPERM && err != unix.EOPNOTSUPP && err != unix.ENOSYS {
			return err
		}
		// The file system has no links either, so check for the name first.
		var st unix.Stat_t
		if err = unix.Fstatat(fd, to, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
			return unix.EEXIST
		}
		if err != unix.ENOENT {
			return err
		}
		return unix.Renameat(fd, from, fd, to)
	})
}

func (d *osDir) remove(name string) error {
	return d.do("remove", name, func(fd int) error { return unix.Unlinkat(fd, name, 0) })
}

func (d *osDir) removeDir(name string) error {
	return d.do("remove", name, func(fd int) error { return unix.Unlinkat(fd, name, unix.AT_REMOVEDIR) })
}

func (d *osDir) list() ([]string, error) {
	// A separate descriptor has a separate read position.
	own, err := d.openDir(".")
	if err != nil {
		return nil, err
	}
	defer own.Close()
	names, err := own.(*osDir).f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

func (d *osDir) lock() error {
	err := d.do("lock", "", func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return errLocked
	case errors.Is(err, unix.EBADF), errors.Is(err, unix.ENOLCK), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
		// Some network file systems cannot lock directories. Without a lock,
		// this process still creates files exclusively and removes only its own.
		return nil
	}
	return err
}

func (d *osDir) sync() error {
	err := d.do("sync", "", unix.Fsync)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil // the file system needs no sync of directories
	}
	return err
}

// osFile is a file of the operating system.
type osFile struct {
	*os.File
	written int64
	flushed int64 // bytes that the kernel was asked to write to the disk
}

// flushStep is the number of bytes after which Write asks the kernel to begin writing
// them to the disk. Otherwise the kernel would write the whole object during Seal.
const flushStep = 8 << 20

func (f *osFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.written += int64(n)
	if f.written-f.flushed >= flushStep {
		// This only begins the writing. Sync makes the bytes durable and returns
		// an error of the writing.
		unix.SyncFileRange(int(f.Fd()), f.flushed, f.written-f.flushed, unix.SYNC_FILE_RANGE_WRITE)
		f.flushed = f.written
	}
	return n, err
}

func (f *osFile) stat() (fileInfo, error) { return statFD(int(f.Fd())) }
