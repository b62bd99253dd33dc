package store_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/store/storetest"
)

func newDir(t *testing.T) (*store.Dir, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a", "b", "snap")
	d, err := store.CreateDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, path
}

func closeDir(t *testing.T, d *store.Dir) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func openDir(t *testing.T, path string) *store.Dir {
	t.Helper()
	d, err := store.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// write writes and commits an object.
func write(t *testing.T, b store.Bucket, name, data string) {
	t.Helper()
	w, err := b.Create(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(t.Context(), []byte(data)); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func wantObject(t *testing.T, b store.Bucket, name, want string) {
	t.Helper()
	if got, err := storetest.ReadAll(t.Context(), b, name); err != nil || string(got) != want {
		t.Errorf("%s is %q (%v), want %q", name, got, err, want)
	}
}

func TestCreateDir_EmptyDirectoryIsTaken(t *testing.T) {
	d, path := newDir(t)
	closeDir(t, d)
	d, err := store.CreateDir(path)
	if err != nil {
		t.Fatal(err)
	}
	// It was there before, so that it stays.
	if err := d.RemoveDir(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("an empty directory that was there before: %v", err)
	}
}

func TestCommit_FailureLeavesNoFile(t *testing.T) {
	d, path := newDir(t)
	w, err := d.Create(t.Context(), "o")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(t.Context(), []byte("data")); err != nil {
		t.Fatal(err)
	}
	// A directory that is not empty cannot be renamed over.
	if err := os.MkdirAll(filepath.Join(path, "o", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); err == nil {
		t.Fatal("the commit did not fail")
	}
	if names, err := d.List(t.Context()); err != nil || !slices.Equal(names, []string{"o"}) {
		t.Errorf("left: %q, %v", names, err)
	}
}

func TestRemoveDir_DirectoryThatIsGone(t *testing.T) {
	d, path := newDir(t)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := d.RemoveDir(); err != nil {
		t.Error(err)
	}
	if _, err := d.List(t.Context()); err == nil {
		t.Error("it was listed")
	}
}
