package snapshot_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/snapshot"
)

// special makes things that are no regular files at a path.
var special = []struct {
	kind string
	make func(t *testing.T, path string) error
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

// soon fails the test if f does not return: it waits for what never comes.
func soon(t *testing.T, what string, f func()) {
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

// Each object of a snapshot in turn is replaced by what is no regular file, and
// by a link to the object itself.
func TestOpen_ObjectThatIsNotARegularFileIsRefused(t *testing.T) {
	d, path := newDir(t)
	if err, _ := save(t, d, snapshot.StoreFast); err != nil {
		t.Fatal(err)
	}
	names, err := d.List(t.Context())
	if err != nil || len(names) < 6 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		own, aside := filepath.Join(path, name), filepath.Join(t.TempDir(), "aside")
		if err := os.Rename(own, aside); err != nil {
			t.Fatal(err)
		}
		check := func(kind string) {
			t.Helper()
			soon(t, "verifying with "+kind+" as "+name, func() {
				err := verifyAll(openDir(t, path))
				if !errors.Is(err, snapshot.ErrCorrupt) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), kind) {
					t.Errorf("%s as %s: %v", kind, name, err)
				}
			})
			if err := os.Remove(own); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range special {
			if err := s.make(t, own); err != nil {
				t.Fatal(err)
			}
			check(s.kind)
		}
		if err := os.Symlink(aside, own); err != nil {
			t.Fatal(err)
		}
		check("a symbolic link")
		if err := os.Rename(aside, own); err != nil {
			t.Fatal(err)
		}
	}
	if err := verifyAll(openDir(t, path)); err != nil {
		t.Error(err)
	}
}
