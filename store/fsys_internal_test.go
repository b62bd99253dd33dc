package store

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// On a file system that cannot rename without replacing, rename uses a link.
func TestRename_NeverReplaces(t *testing.T) {
	system := renameat2
	t.Cleanup(func() { renameat2 = system })
	without := func(err error) func(int, string, int, string, uint) error {
		return func(int, string, int, string, uint) error { return err }
	}
	for name, call := range map[string]func(int, string, int, string, uint) error{
		"renameat2": system, "no flag": without(unix.EINVAL), "no call": without(unix.ENOSYS),
	} {
		renameat2 = call
		path := t.TempDir()
		d, err := osFS{}.openDir(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{"from", "taken"} {
			if err := os.WriteFile(filepath.Join(path, file), []byte(file), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.rename("from", "taken"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: renaming to a name that is taken: %v", name, err)
		}
		if err := d.rename("from", "to"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		names, err := d.list()
		if got := strings.Join(names, " "); err != nil || got != "taken to" {
			t.Errorf("%s: the names are %q (%v)", name, got, err)
		}
		for file, want := range map[string]string{"taken": "taken", "to": "from"} {
			if data, err := os.ReadFile(filepath.Join(path, file)); string(data) != want {
				t.Errorf("%s: %s is %q (%v)", name, file, data, err)
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if err := d.sync(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s: a sync of a directory that is closed: %v", name, err)
		}
	}
}

func TestLockPID_FindsTheHolder(t *testing.T) {
	const locks = `1: POSIX  ADVISORY  WRITE 11 fd:01:77 0 EOF
2: FLOCK  ADVISORY  WRITE 12 fd:01:78 0 EOF
3: FLOCK  ADVISORY  WRITE 13 fd:02:77 0 EOF
4: -> FLOCK  ADVISORY  WRITE 14 fd:01:77 0 EOF
5: FLOCK  ADVISORY  WRITE many fd:01:77 0 EOF
6: FLOCK
7: FLOCK  ADVISORY  WRITE 15 fd:01:77 0 EOF
`
	for id, want := range map[fileID]int{
		{unix.Mkdev(0xfd, 1), 77}: 15, {unix.Mkdev(0xfd, 1), 78}: 12, {unix.Mkdev(0xfd, 2), 77}: 13, {unix.Mkdev(0xfd, 2), 78}: 0,
	} {
		if got := lockPID(strings.NewReader(locks), id); got != want {
			t.Errorf("%x: %d, want %d", id, got, want)
		}
	}
}

func TestOpenedBy_FindsAnotherProcess(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var is unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &is); err != nil {
		t.Fatal(err)
	}
	id := fileID{dev: is.Dev, ino: is.Ino}
	if pid := openedBy(id, filepath.Base(dir.Name())); pid != 0 {
		t.Errorf("process %d is said to have a new directory open", pid)
	}
	cmd := exec.Command("sleep", "1000")
	cmd.ExtraFiles = []*os.File{dir}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	if pid := openedBy(id, filepath.Base(dir.Name())); pid != cmd.Process.Pid {
		t.Errorf("process %d has the directory open, found %d", cmd.Process.Pid, pid)
	}
}

// slowDirectory is a directory whose first sync waits.
type slowDirectory struct {
	directory
	syncs          int
	began, release chan struct{}
}

func (d *slowDirectory) sync() error {
	if d.syncs++; d.syncs == 1 {
		close(d.began)
		<-d.release
	}
	return nil
}

func TestEntryChanges_OneSyncServesAllChangesBeforeIt(t *testing.T) {
	d := &slowDirectory{began: make(chan struct{}), release: make(chan struct{})}
	var c entryChanges
	var wg sync.WaitGroup
	change := func() {
		if err := c.sync(d); err != nil {
			t.Error(err)
		}
	}
	wg.Go(change)
	<-d.began
	for range 10 {
		wg.Go(change)
	}
	for c.made.Load() < 11 { // all have changed something
		runtime.Gosched()
	}
	close(d.release)
	wg.Wait()
	if d.syncs != 2 { // the first one may have been too early for the others
		t.Errorf("%d syncs, want 2", d.syncs)
	}
}

type failingDirectory struct{ directory }

func (failingDirectory) sync() error { return unix.EIO }

func TestEntryChanges_FailedSyncServesNone(t *testing.T) {
	var c entryChanges
	for range 2 {
		if err := c.sync(failingDirectory{}); !errors.Is(err, unix.EIO) {
			t.Errorf("got %v", err)
		}
	}
	d := &slowDirectory{syncs: 1}
	if err := c.sync(d); err != nil || d.syncs != 2 {
		t.Errorf("%d syncs, %v", d.syncs-1, err)
	}
}
