package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

func TestCreateDir_EmptyDirectoryIsAccepted(t *testing.T) {
	d, path := newDir(t)
	closeDir(t, d)
	d, err := store.CreateDir(path)
	if err != nil {
		t.Fatal(err)
	}
	// The directory existed before, so it stays.
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
	// A rename cannot replace a directory that is not empty.
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

func TestRemoveDir_MissingDirectoryIsNoError(t *testing.T) {
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

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// A large snapshot has more objects than a process has file descriptors.
func TestSeal_FreesTheDescriptor(t *testing.T) {
	d, _ := newDir(t)
	before := descriptors(t)
	var sealed []store.Writer
	for i := range 50 {
		w, err := d.Create(t.Context(), fmt.Sprintf("o-%d", i))
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Seal(t.Context()); err != nil {
			t.Fatal(err)
		}
		sealed = append(sealed, w)
	}
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors beside %d", n-before, before)
	}
	for _, w := range sealed {
		if err := w.Abort(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// A new file soon reuses the inode number of a removed file.
func TestCommit_ReusedInodeNumberIsNotTheObject(t *testing.T) {
	for name, end := range map[string]func(store.Writer, context.Context) error{"Commit": store.Writer.Commit, "Abort": store.Writer.Abort} {
		d, path := newDir(t)
		w, err := d.Create(t.Context(), "o")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Seal(t.Context()); err != nil {
			t.Fatal(err)
		}
		theirs := filepath.Join(path, "o.partial")
		if err := os.WriteFile(theirs, []byte("another's"), 0o600); err != nil { // the inode number stays
			t.Fatal(err)
		}
		if err := end(w, t.Context()); err == nil || !strings.Contains(err.Error(), "o.partial ") {
			t.Errorf("%s: %v", name, err)
		}
		if data, err := os.ReadFile(theirs); string(data) != "another's" {
			t.Errorf("the other file: %q, %v", data, err)
		}
	}
}

func TestCommit_ReplacedSealedObjectFails(t *testing.T) {
	d, path := newDir(t)
	w, err := d.Create(t.Context(), "o")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(path, "o.partial")
	if err := errors.Join(os.Rename(theirs, filepath.Join(path, "moved")), os.WriteFile(theirs, []byte("another's"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Open(t.Context()); err == nil || !strings.Contains(err.Error(), "o.partial was replaced by another file") {
		t.Errorf("Open: %v", err)
	}
	if err := w.Commit(t.Context()); err == nil || !strings.Contains(err.Error(), "o.partial was replaced by another file") {
		t.Errorf("Commit: %v", err)
	}
	if data, err := os.ReadFile(theirs); string(data) != "another's" {
		t.Errorf("the other file: %q, %v", data, err)
	}
}
