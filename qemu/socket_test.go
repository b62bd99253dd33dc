package qemu

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

// otherUser is a user that is not this process's.
const otherUser = 12345

// socketDirFor makes the directory for a QEMU of another user. This needs root.
func socketDirFor(t *testing.T, parent string) *socketDir {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files to another user")
	}
	d, err := makeSocketDir(vmOf(t, qmptest.NewMemory(qmp.Version{})), parent)
	if err != nil {
		t.Fatal(err)
	}
	d.qemu, d.give = qmp.Credentials{UID: otherUser, GID: otherUser}, true
	return d
}

func ownerOf(t *testing.T, path string) (uid, mode uint32) {
	t.Helper()
	var is unix.Stat_t
	if err := unix.Lstat(path, &is); err != nil {
		t.Fatal(err)
	}
	return is.Uid, is.Mode & 0o777
}

func TestSocketDir_OwnerStaysTheSameForASave(t *testing.T) {
	d := socketDirFor(t, t.TempDir())
	ln, err := d.listen()
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if uid, mode := ownerOf(t, d.path); uid != 0 || mode != 0o711 {
		t.Errorf("the directory is user %d's with mode %o, want root's with 711", uid, mode)
	}
	if uid, mode := ownerOf(t, d.socket()); uid != otherUser || mode != 0o600 {
		t.Errorf("the socket is user %d's with mode %o, want %d's with 600", uid, mode, otherUser)
	}
	conn, err := net.Dial("unix", d.socket())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := d.remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(d.path); !os.IsNotExist(err) {
		t.Errorf("the directory is left behind: %v", err)
	}
}

// The owner of the parent puts something else where the directory was.
func TestSocketDir_ReplacedIsNeverGivenAway(t *testing.T) {
	parent, victim := t.TempDir(), t.TempDir()
	d := socketDirFor(t, parent)
	if err := os.Rename(d.path, filepath.Join(parent, "aside")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, d.path); err != nil {
		t.Fatal(err)
	}
	if err := d.handOver(); err != nil {
		t.Fatal(err)
	}
	if uid, _ := ownerOf(t, victim); uid != 0 {
		t.Errorf("the directory behind a link was given to user %d", uid)
	}
	if uid, _ := ownerOf(t, filepath.Join(parent, "aside")); uid != otherUser {
		t.Errorf("the directory that was made is user %d's", uid)
	}
	if err := d.remove(); err == nil {
		t.Error("removing what is not a directory any more went well")
	}
	if _, err := os.Stat(victim); err != nil {
		t.Errorf("the directory behind a link was removed: %v", err)
	}
}

func TestSocketDir_DialFollowsNoLink(t *testing.T) {
	d := socketDirFor(t, t.TempDir())
	defer d.remove()
	elsewhere := filepath.Join(t.TempDir(), "secret")
	ln, err := net.Listen("unix", elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := os.Symlink(elsewhere, d.socket()); err != nil {
		t.Fatal(err)
	}
	if conn, err := d.dial(t.Context()); err == nil {
		conn.Close()
		t.Error("a link was followed to a socket elsewhere")
	} else if !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("%v, want an error that says that this is not a socket", err)
	}
}

func TestSocketDir_DialRequiresQEMUsUser(t *testing.T) {
	d := socketDirFor(t, t.TempDir())
	defer d.remove()
	ln, err := net.Listen("unix", d.socket()) // root's, not QEMU's
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := d.dial(t.Context())
	if err == nil {
		conn.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "user 0 listens on") || !strings.Contains(err.Error(), "not one of QEMU's user 12345") {
		t.Errorf("%v, want an error that names both users", err)
	}
}

func TestSocketDir_LongPathIsExplained(t *testing.T) {
	parent := filepath.Join(t.TempDir(), strings.Repeat("x", 100))
	if err := os.Mkdir(parent, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := makeSocketDir(vmOf(t, qmptest.NewMemory(qmp.Version{})), parent)
	if err == nil || !strings.Contains(err.Error(), "at most 107") || !strings.Contains(err.Error(), "--socket-dir") {
		t.Errorf("%v, want an error with the limit and --socket-dir", err)
	}
}

func TestDirIdentity_RemovesOnlyTheDirectoryItDescribes(t *testing.T) {
	parent := t.TempDir()
	d := socketDirFor(t, parent)
	left, err := d.identity()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(d.path, filepath.Join(parent, "aside")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d.path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := left.remove(); err == nil {
		t.Error("another directory of that name was removed")
	}
	if _, err := os.Lstat(d.path); err != nil {
		t.Error(err)
	}
	if err := os.Remove(d.path); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(parent, "aside"), d.path); err != nil {
		t.Fatal(err)
	}
	if err := left.remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(d.path); !os.IsNotExist(err) {
		t.Errorf("the directory is left behind: %v", err)
	}
}

func TestVisibleTo_DirectoryHiddenFromQEMU(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	f, err := openDir(unix.AT_FDCWD, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// This process stands for QEMU: the test's file is named after the package.
	for name, tt := range map[string]struct {
		pid  int
		path string
		want bool
	}{
		"the same":               {os.Getpid(), dir, true},
		"another there":          {os.Getpid(), other, false},
		"nothing there":          {os.Getpid(), filepath.Join(dir, "none"), false},
		"a process that ended":   {0, other, true},
		"a process of no QEMU's": {os.Getppid(), other, true},
	} {
		if got := visibleTo(tt.pid, tt.path, f); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
