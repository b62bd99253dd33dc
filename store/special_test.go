package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/store/storetest"
)

func TestOpen_EntryThatIsNotARegularFileIsRefused(t *testing.T) {
	for _, s := range storetest.Special {
		d, path := newDir(t)
		if err := s.Make(t, filepath.Join(path, "o")); err != nil {
			t.Fatal(err)
		}
		storetest.Soon(t, "opening "+s.Kind, func() {
			_, err := d.Open(t.Context(), "o")
			if !errors.Is(err, store.ErrNotObject) || !strings.Contains(err.Error(), s.Kind) {
				t.Errorf("%s: %v", s.Kind, err)
			}
		})
	}
}

func TestOpenDir_PathThatIsNotADirectoryIsRefused(t *testing.T) {
	for _, s := range storetest.Special {
		if s.Kind == "a directory" {
			continue
		}
		path := filepath.Join(t.TempDir(), "snap")
		if err := s.Make(t, path); err != nil {
			t.Fatal(err)
		}
		storetest.Soon(t, "opening "+s.Kind, func() {
			if _, err := store.OpenDir(path); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("OpenDir of %s: %v", s.Kind, err)
			}
			if _, err := store.CreateDir(path); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("CreateDir of %s: %v", s.Kind, err)
			}
		})
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s: %v", s.Kind, err)
		}
	}
	if _, err := store.OpenDir("/dev/null"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("OpenDir of a device: %v", err)
	}
}

// An object's name can be taken by a FIFO or a link before the object begins.
func TestCreate_ExistingNameIsRefused(t *testing.T) {
	for _, name := range []string{"o", "o.partial"} {
		for _, s := range storetest.Special {
			d, path := newDir(t)
			if err := s.Make(t, filepath.Join(path, name)); err != nil {
				t.Fatal(err)
			}
			storetest.Soon(t, "creating", func() {
				if _, err := d.Create(t.Context(), "o"); !errors.Is(err, fs.ErrExist) {
					t.Errorf("%s is %s: %v", name, s.Kind, err)
				}
			})
			if _, err := os.Lstat(filepath.Join(path, name)); err != nil {
				t.Errorf("%s: %v", s.Kind, err)
			}
		}
	}
}
