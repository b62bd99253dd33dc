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
	"github.com/vmferry/vmferry/store"
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

func TestCreate_SnapshotIsNotOverwritten(t *testing.T) {
	d, path := newDir(t)
	if err, _ := save(t, d, snapshot.StoreRaw); err != nil {
		t.Fatal(err)
	}
	closeDir(t, d)
	d, err := store.CreateDir(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := snapshot.Create(t.Context(), d, snapshot.Options{}); !errors.Is(err, snapshot.ErrExists) || !strings.Contains(err.Error(), path+" holds a snapshot") {
		t.Errorf("Create: %v", err)
	}
	if err := verifyAll(openDir(t, path)); err != nil {
		t.Error(err)
	}
}

func TestCreate_DirectoryThatIsNotEmptyIsRefused(t *testing.T) {
	for _, name := range []string{"notes.txt", "pages-000000.partial", ".hidden"} {
		d, path := newDir(t)
		if err := os.WriteFile(filepath.Join(path, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := snapshot.Create(t.Context(), d, snapshot.Options{}); !errors.Is(err, snapshot.ErrExists) || !strings.Contains(err.Error(), name) {
			t.Errorf("Create beside %s: %v", name, err)
		}
	}
}

func TestOpen_SnapshotThatIsBeingWritten(t *testing.T) {
	d, path := newDir(t)
	if _, err := d.Create(t.Context(), "pages-000000"); err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.Open(t.Context(), openDir(t, path), snapshot.OpenOptions{}); !errors.Is(err, snapshot.ErrIncomplete) {
		t.Errorf("Open: %v", err)
	}
}

func TestCreateDir_SecondWriterKeepsTheSnapshotOfTheFirst(t *testing.T) {
	d, path := newDir(t)
	if second, err := store.CreateDir(path); !errors.Is(err, store.ErrInUse) || second != nil {
		t.Fatalf("CreateDir: %v", err)
	}
	if err, _ := save(t, d, snapshot.StoreFast); err != nil {
		t.Fatal(err)
	}
	closeDir(t, d)
	if err := verifyAll(openDir(t, path)); err != nil {
		t.Error(err)
	}
}

func TestOpen_DirectoryWithoutASnapshotIsErrIncomplete(t *testing.T) {
	_, path := newDir(t)
	d, err := store.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.Open(t.Context(), d, snapshot.OpenOptions{}); !errors.Is(err, snapshot.ErrIncomplete) || !strings.Contains(err.Error(), path) {
		t.Errorf("an empty directory: %v", err)
	}
	if _, err := store.OpenDir(filepath.Join(path, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	file := filepath.Join(path, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenDir(file); err == nil {
		t.Error("a file was taken for a directory")
	}
	if err := os.MkdirAll(filepath.Join(path, "manifest.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.Open(t.Context(), d, snapshot.OpenOptions{}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory as the manifest: %v", err)
	}
}

func TestAbort_RemovesItsOwnFilesOnly(t *testing.T) {
	d, path := newDir(t)
	l := pcLayout(t, 4096)
	w := create(t, d, l, snapshot.Options{Store: snapshot.StoreRaw, ObjectSize: 1})
	lane := openLane(t, w)
	m := newModel(l)
	r := seeded("abort")
	m.put(t, lane, l.Blocks[0], fillPages(r, 4096, 128), spread(r, l, l.Blocks[0], 128)...)
	m.put(t, lane, l.Blocks[0], fillPages(r, 4096, 3), spread(r, l, l.Blocks[0], 3)...)
	for _, name := range []string{"notes.txt", "pages-000007", "index", "manifest.json"} {
		if err := os.WriteFile(filepath.Join(path, name), []byte("another's"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := lane.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(t.Context(), metaFor(l)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Finish beside an index: %v", err)
	}
	if err := w.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	names, err := d.List(t.Context())
	if want := []string{"index", "manifest.json", "notes.txt", "pages-000007"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("left: %q, want %q (%v)", names, want, err)
	}
	if err := d.RemoveDir(); err == nil {
		t.Error("a directory with another's files was removed")
	}
}

func TestWriter_FilesAreForTheirOwnerOnly(t *testing.T) {
	d, path := newDir(t)
	if err, _ := save(t, d, snapshot.StoreFast); err != nil {
		t.Fatal(err)
	}
	names, err := d.List(t.Context())
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
