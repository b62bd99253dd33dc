package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/store/storetest"
)

func TestCreateFile_AppearsWhenCommitted(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("n", 255))
	f, err := store.CreateFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("data"), 2); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before the commit: %v", err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := f.Abort(); err != nil {
		t.Errorf("Abort after Commit: %v", err)
	}
	if got, err := os.ReadFile(path); string(got) != "\x00\x00data" {
		t.Errorf("the file is %q (%v)", got, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	wantEntries(t, path, 1)
	if err := f.Commit(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a second Commit: %v", err)
	}
}

// wantEntries checks how many files there are beside a path, itself included.
func wantEntries(t *testing.T, path string, want int) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != want {
		t.Errorf("%d files, want %d: %v (%v)", len(entries), want, entries, err)
	}
}

func TestCreateFile_AbortLeavesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	f, err := store.CreateFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Abort(); err != nil {
		t.Error(err)
	}
	wantEntries(t, path, 0)
}

func TestCreateFile_ExistingNameIsRefused(t *testing.T) {
	for _, s := range storetest.Special {
		path := filepath.Join(t.TempDir(), "out")
		if err := s.Make(t, path); err != nil {
			t.Fatal(err)
		}
		storetest.Soon(t, "creating over "+s.Kind, func() {
			_, err := store.CreateFile(path)
			if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), s.Kind) || !strings.Contains(err.Error(), "file exists") {
				t.Errorf("%s: %v", s.Kind, err)
			}
		})
		wantEntries(t, path, 1)
	}
}

func TestCreateFile_PathWithoutANameIsRefused(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, path := range []string{"", "/", "//"} {
		if f, err := store.CreateFile(path); err == nil || !strings.Contains(err.Error(), "names no file") {
			t.Errorf("%q: %v, %v", path, f, err)
		}
	}
}

func TestCreateFile_NameTakenDuringWritingFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	f, err := store.CreateFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("another's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Commit: %v", err)
	}
	if got, err := os.ReadFile(path); string(got) != "another's" {
		t.Errorf("the file is %q (%v)", got, err)
	}
	wantEntries(t, path, 1)
}

func TestCreateFile_KilledWriterLeavesNoFileOfThatName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	kill(startRole(t, "exporter", path))
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the kill: %v", err)
	}
	_, err := store.CreateFile(path)
	if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "out.partial") || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("CreateFile beside the rest: %v", err)
	}
	if err := os.Remove(path + ".partial"); err != nil {
		t.Fatal(err)
	}
	f, err := store.CreateFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err != nil {
		t.Error(err)
	}
}
