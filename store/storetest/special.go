package storetest

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Special creates entries that are not regular files at a path. Kind is what an error
// calls the entry.
var Special = []struct {
	Kind string
	Make func(t *testing.T, path string) error
}{
	{"a FIFO", func(_ *testing.T, path string) error { return unix.Mkfifo(path, 0o600) }},
	{"a directory", func(_ *testing.T, path string) error { return os.Mkdir(path, 0o700) }},
	{"a symbolic link", func(t *testing.T, path string) error {
		target := filepath.Join(t.TempDir(), "target")
		return errors.Join(os.WriteFile(target, []byte("secret"), 0o600), os.Symlink(target, path))
	}},
	{"a symbolic link", func(_ *testing.T, path string) error { return os.Symlink("/dev/zero", path) }},
	{"a symbolic link", func(_ *testing.T, path string) error { return os.Symlink(filepath.Base(path), path) }},
	{"a socket", func(_ *testing.T, path string) error {
		// A socket's path is short; that of a test's folder is not always.
		dir, err := os.MkdirTemp("", "vf")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
		if err != nil {
			return err
		}
		ln.SetUnlinkOnClose(false)
		return errors.Join(ln.Close(), os.Rename(filepath.Join(dir, "s"), path))
	}},
}

// Soon fails the test if f does not return within a minute.
func Soon(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("%s did not return", what)
	}
}
