package snapshot_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store/storetest"
)

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
			storetest.Soon(t, "verifying with "+kind+" as "+name, func() {
				err := verifyAll(openDir(t, path))
				if !errors.Is(err, snapshot.ErrCorrupt) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), kind) {
					t.Errorf("%s as %s: %v", kind, name, err)
				}
			})
			if err := os.Remove(own); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range storetest.Special {
			if err := s.Make(t, own); err != nil {
				t.Fatal(err)
			}
			check(s.Kind)
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
