package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/vmferry/vmferry/store"
)

// roleVariable names the role that the test program plays as another process.
const roleVariable = "VMFERRY_STORE_TEST_ROLE"

func TestMain(m *testing.M) {
	role := os.Getenv(roleVariable)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := playRole(role, os.Args[len(os.Args)-1]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	// It waits until it is killed, with what it holds. A read and not select{}: without
	// cgo the runtime takes a process that nothing can wake for a deadlock and ends it.
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// held is what a role keeps open: a directory that is collected as garbage is closed,
// and its lock with it.
var held any

func playRole(role, path string) error {
	switch role {
	case "writer":
		d, err := store.CreateDir(path)
		if err != nil {
			return err
		}
		held = d
		_, err = d.Create(context.Background(), "pages-000000")
		return err
	case "exporter":
		f, err := store.CreateFile(path)
		if err != nil {
			return err
		}
		held = f
		_, err = f.WriteAt([]byte("half"), 0)
		return err
	}
	return fmt.Errorf("unknown role %q", role)
}

// startRole starts a process that plays the role and waits until it is ready.
func startRole(t *testing.T, role, path string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, path)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil { // which the role reads to the end
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		t.Fatalf("the %s says %q (%v)", role, line, err)
	}
	return cmd
}

func kill(cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait()
}

func TestCreateDir_SecondWriterFailsAndNamesTheFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snap")
	other := startRole(t, "writer", path)
	_, err := store.CreateDir(path)
	if !errors.Is(err, store.ErrInUse) {
		t.Fatalf("CreateDir: %v", err)
	}
	for _, want := range []string{path, fmt.Sprintf("process %d", other.Process.Pid), filepath.Base(other.Path), "wait for its end"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q, want it to contain %q", err, want)
		}
	}
	kill(other)
	// The lock ended with its holder. The partial object stays.
	d, err := store.CreateDir(path)
	if err != nil {
		t.Fatalf("CreateDir after the writer was killed: %v", err)
	}
	if _, err := d.Create(t.Context(), "pages-000000"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create of the object that it began: %v", err)
	}
	closeDir(t, d)
}

func TestCreateDir_SecondWriterKeepsObjectsOfTheFirst(t *testing.T) {
	d, path := newDir(t)
	second, err := store.CreateDir(path)
	if !errors.Is(err, store.ErrInUse) || second != nil {
		t.Fatalf("CreateDir: %v", err)
	}
	if want := fmt.Sprintf("this process (pid %d)", os.Getpid()); !strings.Contains(err.Error(), want) {
		t.Errorf("error %q, want it to contain %q", err, want)
	}
	write(t, d, "o", "data")
	closeDir(t, d)
	wantObject(t, openDir(t, path), "o", "data")
}

// Several writers create the directory, fail, and remove it, all at the same time. No
// writer loses the directory that it holds, or finds another writer's object in it.
func TestCreateDir_ConcurrentWriters(t *testing.T) {
	parent := t.TempDir()
	path := filepath.Join(parent, "a", "b")
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			for held := 0; held < 20; {
				d, err := store.CreateDir(path)
				if errors.Is(err, store.ErrInUse) {
					continue
				}
				if err != nil {
					t.Errorf("writer %d: %v", n, err)
					return
				}
				held++
				w, err := d.Create(t.Context(), "o")
				if err == nil {
					err = errors.Join(w.Commit(t.Context()), d.Remove(t.Context(), "o"))
				}
				if err := errors.Join(err, d.RemoveDir(), d.Close()); err != nil {
					t.Errorf("writer %d: %v", n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	entries, err := os.ReadDir(path)
	if len(entries) != 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestRemoveDir_RemovesCreatedParents(t *testing.T) {
	for _, tt := range []struct{ name, there, add, want string }{
		{"all were made", "", "", ""},
		{"one was there", "a", "", "a"},
		{"all were there", "a/b/snap", "", "a/b/snap"},
		{"one is used for something else", "", "a/other", "a/other"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			top := t.TempDir()
			if err := os.MkdirAll(filepath.Join(top, tt.there), 0o700); err != nil {
				t.Fatal(err)
			}
			d, err := store.CreateDir(filepath.Join(top, "a", "b", "snap"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(top, tt.add), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(d.RemoveDir(), d.Close()); err != nil {
				t.Error(err)
			}
			deepest := ""
			filepath.WalkDir(top, func(path string, _ fs.DirEntry, _ error) error {
				deepest = strings.TrimPrefix(strings.TrimPrefix(path, top), "/")
				return nil
			})
			if deepest != tt.want {
				t.Errorf("left: %q, want %q", deepest, tt.want)
			}
		})
	}
}

func TestRemoveDir_ReplacedDirectoryStays(t *testing.T) {
	d, path := newDir(t)
	w, err := d.Create(t.Context(), "o")
	if err != nil {
		t.Fatal(err)
	}
	moved := path + "-moved"
	if err := errors.Join(os.Rename(path, moved), os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, "o.partial"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := w.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	if names, err := os.ReadDir(moved); err != nil || len(names) != 0 {
		t.Errorf("left in the directory that the writer made: %v, %v", names, err)
	}
	if _, err := os.Stat(filepath.Join(path, "o.partial")); err != nil {
		t.Errorf("the object of the other directory: %v", err)
	}
	if err := os.Remove(filepath.Join(path, "o.partial")); err != nil {
		t.Fatal(err)
	}
	if err := d.RemoveDir(); err == nil || !strings.Contains(err.Error(), "not the directory that this process created") {
		t.Errorf("RemoveDir: %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the other directory: %v", err)
	}
}

func TestCommit_MovedOrReplacedDirectoryFails(t *testing.T) {
	for name, replace := range map[string]func(path string) error{
		"moved":      func(string) error { return nil },
		"replaced":   func(path string) error { return os.Mkdir(path, 0o700) },
		"now a link": func(path string) error { return os.Symlink(filepath.Dir(path), path) },
		"now a file": func(path string) error { return os.WriteFile(path, nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			d, path := newDir(t)
			w, err := d.Create(t.Context(), "o")
			if err != nil {
				t.Fatal(err)
			}
			moved := path + "-moved"
			if err := errors.Join(os.Rename(path, moved), replace(path)); err != nil {
				t.Fatal(err)
			}
			if err := w.Commit(t.Context()); err == nil || !strings.Contains(err.Error(), "during writing") {
				t.Errorf("Commit: %v", err)
			}
			if names, err := os.ReadDir(moved); err != nil || len(names) != 0 {
				t.Errorf("left in the directory that the writer made: %v, %v", names, err)
			}
		})
	}
}

func TestCommit_NameTakenDuringWritingFails(t *testing.T) {
	d, path := newDir(t)
	w, err := d.Create(t.Context(), "o")
	if err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(path, "o")
	if err := os.WriteFile(theirs, []byte("another's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Commit: %v", err)
	}
	if err := d.Remove(t.Context(), "o"); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "not the file that this process wrote") {
		t.Errorf("Remove: %v", err)
	}
	if names, err := d.List(t.Context()); err != nil || len(names) != 1 {
		t.Errorf("left: %q, %v", names, err)
	}
	if data, err := os.ReadFile(theirs); string(data) != "another's" {
		t.Errorf("the other file: %q, %v", data, err)
	}
}

func TestCommit_ReplacedPartialObjectFails(t *testing.T) {
	d, path := newDir(t)
	for _, end := range []func(store.Writer, context.Context) error{store.Writer.Commit, store.Writer.Abort} {
		w, err := d.Create(t.Context(), "o")
		if err != nil {
			t.Fatal(err)
		}
		theirs := filepath.Join(path, "o.partial")
		if err := errors.Join(os.Rename(theirs, filepath.Join(path, "moved")), os.WriteFile(theirs, []byte("another's"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := end(w, t.Context()); err == nil || !strings.Contains(err.Error(), "o.partial") {
			t.Errorf("got %v", err)
		}
		if data, err := os.ReadFile(theirs); string(data) != "another's" {
			t.Errorf("the other file: %q, %v", data, err)
		}
		if _, err := os.Stat(filepath.Join(path, "o")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the other file was published: %v", err)
		}
		if err := os.Remove(theirs); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenDir_WritesNothing(t *testing.T) {
	d, path := newDir(t)
	write(t, d, "o", "data")
	closeDir(t, d)
	r := openDir(t, path)
	if _, err := r.Create(t.Context(), "p"); err == nil || !strings.Contains(err.Error(), "reading only") {
		t.Errorf("Create: %v", err)
	}
	if err := r.Remove(t.Context(), "o"); err == nil {
		t.Error("the object was removed")
	}
	if err := r.RemoveDir(); err != nil {
		t.Error(err)
	}
	wantObject(t, r, "o", "data")
}
