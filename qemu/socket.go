package qemu

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/internal/unixpath"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/transport"
)

// Names of sockets in the directory.
const (
	socketName  = "s" // between QEMU and this process
	monitorName = "m" // for the command at the pause
)

// socketDir is a new directory for the socket between QEMU and this process.
//
// This process may be root, and QEMU may run as another user. So this process acts on
// the directory and its entries through descriptors only, and follows no symbolic
// link. Only QEMU resolves the path again.
type socketDir struct {
	path   string // of the directory, as QEMU sees it
	parent *os.File
	dir    *os.File
	qemu   qmp.Credentials
	give   bool // this process is root, and QEMU runs as another user
}

// makeSocketDir makes the directory in parent, "" for the directory for temporary
// files. Only this process's user can enter it.
func makeSocketDir(vm *qmp.Machine, parent string) (_ *socketDir, err error) {
	if parent == "" {
		parent = os.TempDir()
	}
	parent, err = filepath.Abs(parent) // QEMU has a working directory of its own
	if err != nil {
		return nil, fmt.Errorf("making a directory for the socket: %w", err)
	}
	name := "vmferry-" + strings.ToLower(rand.Text()[:10])
	d := &socketDir{path: filepath.Join(parent, name)}
	if err := unixpath.Check(d.socket(), "choose a shorter directory with --socket-dir"); err != nil {
		return nil, err
	}
	// A sandbox may hide QEMU's process. The socket then works if QEMU can open it
	// without a change of its owner.
	if cred, err := vm.Process(); err == nil {
		d.qemu, d.give = cred, os.Geteuid() == 0 && cred.UID > 0
	}
	if d.parent, err = openDir(unix.AT_FDCWD, parent); err != nil {
		return nil, fmt.Errorf("directory for the socket: %w (choose another with --socket-dir)", err)
	}
	if err := unix.Mkdirat(int(d.parent.Fd()), name, 0o700); err != nil {
		d.parent.Close()
		return nil, fmt.Errorf("making a directory for the socket in %s: %w (choose another with --socket-dir)", parent, err)
	}
	if d.dir, err = openDir(int(d.parent.Fd()), name); err != nil {
		unix.Unlinkat(int(d.parent.Fd()), name, unix.AT_REMOVEDIR)
		d.parent.Close()
		return nil, fmt.Errorf("directory for the socket: %w", err)
	}
	if err := d.checkOwn(); err != nil {
		d.close()
		return nil, err
	}
	if !visibleTo(d.qemu.PID, d.path, d.dir) {
		err := fmt.Errorf("directory for the socket %s: %s", d.path, seesOtherFiles)
		return nil, errors.Join(err, d.remove())
	}
	return d, nil
}

// openDir opens a directory. If path is relative to the descriptor at, its last element
// must not be a symbolic link.
func openDir(at int, path string) (*os.File, error) {
	flags := unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	if at != unix.AT_FDCWD {
		flags |= unix.O_NOFOLLOW
	}
	fd, err := unix.Openat(at, path, flags, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// checkOwn checks that the opened directory is the one that makeSocketDir made: the
// owner of the parent could have replaced it.
func (d *socketDir) checkOwn() error {
	var is unix.Stat_t
	if err := unix.Fstat(int(d.dir.Fd()), &is); err != nil {
		return fmt.Errorf("directory for the socket %s: %w", d.path, err)
	}
	if int(is.Uid) != os.Geteuid() || is.Mode&0o777 != 0o700 {
		return fmt.Errorf("directory for the socket %s was replaced by a directory of user %d with mode %o (choose another parent with --socket-dir)", d.path, is.Uid, is.Mode&0o777)
	}
	return nil
}

// socket returns the path of the socket, as QEMU sees it.
func (d *socketDir) socket() string { return filepath.Join(d.path, socketName) }

// address returns the socket's address for QEMU.
func (d *socketDir) address() string {
	return transport.Address{Network: "unix", Addr: d.socket()}.String()
}

// listen listens on the socket, which QEMU's user can connect to. The directory
// stays this process's own, so nothing in it can be replaced.
func (d *socketDir) listen() (*net.UnixListener, error) {
	ln, err := d.listenAs(socketName)
	if err != nil || !d.give {
		return ln, err
	}
	err = unix.Fchownat(int(d.dir.Fd()), socketName, d.qemu.UID, d.qemu.GID, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		err = unix.Fchmod(int(d.dir.Fd()), 0o711) // others can look up the socket; only QEMU's user can connect
	}
	if err != nil {
		ln.Close()
		return nil, fmt.Errorf("giving the socket %s to QEMU's user %d: %w", d.socket(), d.qemu.UID, err)
	}
	return ln, nil
}

// listenAs listens on a socket of that name, which only this process's user can
// connect to.
func (d *socketDir) listenAs(name string) (*net.UnixListener, error) {
	path := filepath.Join(d.path, name)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: unixpath.Through(int(d.dir.Fd()), name), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	ln.SetUnlinkOnClose(false) // remove does that
	// Only this process's user can change the directory, so the name is the new socket.
	if err := unix.Fchmodat(int(d.dir.Fd()), name, 0o600, 0); err != nil {
		ln.Close()
		return nil, fmt.Errorf("restricting the socket %s to its user: %w", path, err)
	}
	return ln, nil
}

// handOver gives the directory to QEMU's user, because QEMU makes the socket in it.
func (d *socketDir) handOver() error {
	if !d.give {
		return nil
	}
	if err := unix.Fchown(int(d.dir.Fd()), d.qemu.UID, d.qemu.GID); err != nil {
		return fmt.Errorf("giving the socket's directory %s to QEMU's user %d: %w", d.path, d.qemu.UID, err)
	}
	return nil
}

// dial connects to the socket that QEMU made. QEMU's user may own the directory and
// could have put a symbolic link there. So dial connects to the file that it has opened
// and checked, and then checks that the peer is a process of that user.
func (d *socketDir) dial(ctx context.Context) (net.Conn, error) {
	fd, err := unix.Openat(int(d.dir.Fd()), socketName, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket %s that QEMU listens on: %w", d.socket(), err)
	}
	defer unix.Close(fd)
	var is unix.Stat_t
	if err := unix.Fstat(fd, &is); err != nil {
		return nil, fmt.Errorf("socket %s: %w", d.socket(), err)
	}
	if is.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, fmt.Errorf("%s is not a socket, though QEMU reports that it listens there", d.socket())
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", d.socket(), err)
	}
	if err := d.checkPeer(conn.(*net.UnixConn)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// checkPeer compares the user of the peer process with QEMU's user.
func (d *socketDir) checkPeer(conn *net.UnixConn) error {
	if !d.give {
		return nil
	}
	peer, err := qmp.PeerCredOf(conn)
	if err != nil {
		return fmt.Errorf("user behind the socket %s: %w", d.socket(), err)
	}
	if peer.UID != d.qemu.UID {
		return fmt.Errorf("a process of user %[2]d listens on %[1]s, not one of QEMU's user %[3]d", d.socket(), peer.UID, d.qemu.UID)
	}
	return nil
}

// remove removes the sockets and the directory. If QEMU's user put other files there,
// they stay, and remove returns an error.
func (d *socketDir) remove() error {
	if d.dir == nil {
		return nil
	}
	defer d.close()
	return removeSocketDir(d.parent, d.dir, d.path)
}

func removeSocketDir(parent, dir *os.File, path string) error {
	for _, name := range []string{socketName, monitorName} {
		if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil && err != unix.ENOENT {
			return fmt.Errorf("removing the socket %s in %s: %w", name, path, err)
		}
	}
	err := unix.Unlinkat(int(parent.Fd()), filepath.Base(path), unix.AT_REMOVEDIR)
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("removing the socket's directory %s: %w", path, err)
	}
	return nil
}

func (d *socketDir) close() {
	d.dir.Close()
	d.parent.Close()
	d.dir = nil
}

// dirIdentity identifies the socket's directory for the guard, which removes it if this
// process is killed.
type dirIdentity struct {
	Path  string `json:"path"`
	Dev   uint64 `json:"dev"`
	Inode uint64 `json:"inode"`
}

// identity returns the identity of the directory.
func (d *socketDir) identity() (*dirIdentity, error) {
	var is unix.Stat_t
	if err := unix.Fstat(int(d.dir.Fd()), &is); err != nil {
		return nil, fmt.Errorf("directory for the socket %s: %w", d.path, err)
	}
	return &dirIdentity{Path: d.path, Dev: is.Dev, Inode: is.Ino}, nil
}

// remove removes the directory if it still has this identity.
func (l *dirIdentity) remove() error {
	parent, err := openDir(unix.AT_FDCWD, filepath.Dir(l.Path))
	if err != nil {
		return err
	}
	defer parent.Close()
	dir, err := openDir(int(parent.Fd()), filepath.Base(l.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	var is unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &is); err != nil {
		return err
	}
	if is.Dev != l.Dev || is.Ino != l.Inode {
		return fmt.Errorf("directory for the socket %s was replaced by another directory, which is not removed", l.Path)
	}
	return removeSocketDir(parent, dir, l.Path)
}

// seesOtherFiles says why a QEMU cannot reach a socket, and what to do.
const seesOtherFiles = "QEMU sees other files than vmferry (a container or a chroot): name a directory that both see under the same path with --socket-dir"

// visibleTo tells whether the process finds the directory under its path. This is
// checked first, because a QEMU that cannot make its socket for an incoming migration
// accepts no second one. The answer is yes if the process is not known or cannot be
// inspected, or may be another one that opened the monitor for QEMU.
func visibleTo(pid int, path string, dir *os.File) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || !strings.Contains(filepath.Base(exe), "qemu") {
		return true
	}
	root, err := openDir(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/root", pid))
	if err != nil {
		return true
	}
	defer root.Close()
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	fd, err := unix.Openat2(int(root.Fd()), path, &how)
	if err != nil {
		return err != unix.ENOENT && err != unix.ENOTDIR
	}
	defer unix.Close(fd)
	var mine, theirs unix.Stat_t
	if unix.Fstat(int(dir.Fd()), &mine) != nil || unix.Fstat(fd, &theirs) != nil {
		return true
	}
	return mine.Dev == theirs.Dev && mine.Ino == theirs.Ino
}

// adviceOnSocket says what to do when QEMU cannot reach the socket: QEMU may see other
// files than this process, as in a container or a chroot.
func adviceOnSocket(vm *qmp.Machine) string {
	const general = "if QEMU runs in a container or a chroot, name a directory that both see under the same path with --socket-dir"
	cred, err := vm.Process()
	if err != nil || cred.PID <= 0 {
		return general
	}
	for _, kind := range []string{"root", "ns/mnt"} {
		mine, err := os.Readlink("/proc/self/" + kind)
		if err != nil {
			return general
		}
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", cred.PID, kind))
		if err == nil && mine != theirs {
			return seesOtherFiles
		}
	}
	return general
}
