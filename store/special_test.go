package store_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/store"
)

// special creates entries that are not regular files at a path.
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

// soon fails the test if f does not return.
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

func TestOpen_EntryThatIsNotARegularFileIsRefused(t *testing.T) {
	for _, s := range special {
		d, path := newDir(t)
		if err := s.make(t, filepath.Join(path, "o")); err != nil {
			t.Fatal(err)
		}
		soon(t, "opening "+s.kind, func() {
			_, err := d.Open(t.Context(), "o")
			if !errors.Is(err, store.ErrNotObject) || !strings.Contains(err.Error(), s.kind) {
				t.Errorf("%s: %v", s.kind, err)
			}
		})
	}
}

func TestOpenDir_PathThatIsNotADirectoryIsRefused(t *testing.T) {
	for _, s := range special {
		if s.kind == "a directory" {
			continue
		}
		path := filepath.Join(t.TempDir(), "snap")
		if err := s.make(t, path); err != nil {
			t.Fatal(err)
		}
		soon(t, "opening "+s.kind, func() {
			if _, err := store.OpenDir(path); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("OpenDir of %s: %v", s.kind, err)
			}
			if _, err := store.CreateDir(path); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("CreateDir of %s: %v", s.kind, err)
			}
		})
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s: %v", s.kind, err)
		}
	}
	if _, err := store.OpenDir("/dev/null"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("OpenDir of a device: %v", err)
	}
}

// An object's name can be taken by a FIFO or a link before the object begins.
func TestCreate_ExistingNameIsRefused(t *testing.T) {
	for _, name := range []string{"o", "o.partial"} {
		for _, s := range special {
			d, path := newDir(t)
			if err := s.make(t, filepath.Join(path, name)); err != nil {
				t.Fatal(err)
			}
			soon(t, "creating", func() {
				if _, err := d.Create(t.Context(), "o"); !errors.Is(err, fs.ErrExist) {
					t.Errorf("%s is %s: %v", name, s.kind, err)
				}
			})
			if _, err := os.Lstat(filepath.Join(path, name)); err != nil {
				t.Errorf("%s: %v", s.kind, err)
			}
		}
	}
}
