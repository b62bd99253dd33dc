package snapshot_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/snapshot"
)

func newDir(t *testing.T) (*snapshot.Dir, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a", "b", "snap")
	d, err := snapshot.CreateDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, path
}

func closeDir(t *testing.T, d *snapshot.Dir) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func openDir(t *testing.T, path string) *snapshot.Dir {
	t.Helper()
	d, err := snapshot.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestASnapshotIsNotWrittenOver(t *testing.T) {
	d, path := newDir(t)
	if err, _ := save(t, d, snapshot.StoreRaw); err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.Create(d, snapshot.Options{}); !errors.Is(err, snapshot.ErrExists) {
		t.Errorf("Create: %v", err)
	}
	closeDir(t, d)
	_, err := snapshot.CreateDir(path)
	if !errors.Is(err, snapshot.ErrExists) || !strings.Contains(err.Error(), "holds a snapshot") {
		t.Errorf("CreateDir: %v", err)
	}
	if err := verifyAll(openDir(t, path)); err != nil {
		t.Error(err)
	}
}

func TestADirectoryWithOtherThingsInItIsRefused(t *testing.T) {
	for _, name := range []string{"notes.txt", "pages-000000.partial", ".hidden"} {
		d, path := newDir(t)
		if err := os.WriteFile(filepath.Join(path, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := snapshot.Create(d, snapshot.Options{}); !errors.Is(err, snapshot.ErrExists) {
			t.Errorf("Create beside %s: %v", name, err)
		}
		closeDir(t, d)
		_, err := snapshot.CreateDir(path)
		if !errors.Is(err, snapshot.ErrExists) || !strings.Contains(err.Error(), name) {
			t.Errorf("CreateDir beside %s: %v", name, err)
		}
	}
}

func TestAnEmptyDirectoryIsTaken(t *testing.T) {
	d, path := newDir(t)
	closeDir(t, d)
	d, err := snapshot.CreateDir(path)
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

func TestWhatIsNoSnapshotIsNotOpened(t *testing.T) {
	_, path := newDir(t)
	d, err := snapshot.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.Open(d); !errors.Is(err, snapshot.ErrIncomplete) || !strings.Contains(err.Error(), path) {
		t.Errorf("an empty directory: %v", err)
	}
	if _, err := snapshot.OpenDir(filepath.Join(path, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	file := filepath.Join(path, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.OpenDir(file); err == nil {
		t.Error("a file was taken for a directory")
	}
	if err := os.MkdirAll(filepath.Join(path, "manifest.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.Open(d); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a directory as the manifest: %v", err)
	}
}

func TestAbortRemovesItsOwnFilesOnly(t *testing.T) {
	d, path := newDir(t)
	l := pcLayout(t, 4096)
	w := create(t, d, l, snapshot.Options{Store: snapshot.StoreRaw, ObjectSize: 1})
	lane := openLane(t, w)
	m := newModel(l)
	r := seeded("abort")
	m.put(t, lane, l.Blocks[0], fillPages(r, 4096, 128), spread(r, l, l.Blocks[0], 128)...)
	m.put(t, lane, l.Blocks[0], fillPages(r, 4096, 3), spread(r, l, l.Blocks[0], 3)...)
	for _, name := range []string{"notes.txt", "pages-000007", "index", "manifest.json"} {
		if err := os.WriteFile(filepath.Join(path, name), []byte("somebody else's"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := lane.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(t.Context(), metaFor(l)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Finish beside an index: %v", err)
	}
	if err := w.Abort(); err != nil {
		t.Fatal(err)
	}
	names, err := d.List()
	if want := []string{"index", "manifest.json", "notes.txt", "pages-000007"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("left: %q, want %q (%v)", names, want, err)
	}
	if err := d.RemoveDir(); err == nil {
		t.Error("a directory with somebody else's files was removed")
	}
}

func TestACommitThatFailsLeavesNoFile(t *testing.T) {
	d, path := newDir(t)
	w, err := d.Create("o")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("data")); err != nil {
		t.Fatal(err)
	}
	// A directory that is not empty cannot be renamed over.
	if err := os.MkdirAll(filepath.Join(path, "o", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err == nil {
		t.Fatal("the commit did not fail")
	}
	if names, err := d.List(); err != nil || !slices.Equal(names, []string{"o"}) {
		t.Errorf("left: %q, %v", names, err)
	}
}

func TestRemoveDirOfADirectoryThatIsGone(t *testing.T) {
	d, path := newDir(t)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := d.RemoveDir(); err != nil {
		t.Error(err)
	}
	if _, err := d.List(); err == nil {
		t.Error("it was listed")
	}
}

func TestFilesAreForTheirOwnerOnly(t *testing.T) {
	d, path := newDir(t)
	if err, _ := save(t, d, snapshot.StoreFast); err != nil {
		t.Fatal(err)
	}
	names, err := d.List()
	if err != nil || len(names) < 6 {
		t.Fatal(names, err)
	}
	for _, name := range append(names, ".") {
		info, err := os.Stat(filepath.Join(path, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}
