package store_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/vmstate"
)

const crashPath = "/backups/today/vm1"

// writeCrashing writes a snapshot of several objects, one of which compaction
// takes away, and leaves its marks in the log. With abort, it then aborts:
// so a receiver did whose source failed at the very end.
func writeCrashing(t *testing.T, f *store.CrashFS, abort bool) {
	t.Helper()
	d, err := f.CreateDir(crashPath)
	if err != nil {
		t.Fatal(err)
	}
	f.Mark("writing")
	layout, err := guest.NewLayout(1024, []guest.Block{{Name: "pc.ram", Length: 16 << 10}})
	if err != nil {
		t.Fatal(err)
	}
	w, err := snapshot.Create(t.Context(), d, snapshot.Options{Store: snapshot.StoreRaw, ObjectSize: 3000})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Setup(layout); err != nil {
		t.Fatal(err)
	}
	// Each lane has an object of its own. The last one supersedes the first.
	for _, first := range []uint64{0, 4, 0} {
		lane, err := w.Lane()
		if err != nil {
			t.Fatal(err)
		}
		pages, err := lane.Pages(layout.Blocks[0], []uint64{first << 10, (first + 1) << 10})
		if err != nil {
			t.Fatal(err)
		}
		for i := range pages {
			for at := range pages[i] {
				pages[i][at] = byte(at*7 + i)
			}
		}
		if err := errors.Join(lane.Commit(), lane.Close()); err != nil {
			t.Fatal(err)
		}
	}
	_, err = w.Finish(t.Context(), snapshot.Meta{
		Head:    (&vmstate.Configuration{Machine: "pc-q35-10.0", PageBits: 10}).Head(),
		Devices: append([]byte{0, 6, 0, 0, 0, 2}, "{}"...),
		Machine: snapshot.Machine{Type: "pc-q35-10.0", PageSize: 1024, Sync: vmstate.SyncPerSection, RunState: "running"},
	})
	if err != nil {
		t.Fatal(err)
	}
	names, err := d.List(t.Context())
	if err != nil || slices.Contains(names, "pages-000000") || slices.Contains(names, "pages-000000"+store.Partial) {
		t.Fatalf("compaction did not remove the first object: %q, %v", names, err)
	}
	f.Mark("finished")
	if abort {
		f.Mark("aborting")
		if err := errors.Join(w.Abort(t.Context()), d.RemoveDir()); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// crashCheck checks what is found after a crash, the same thing once.
type crashCheck struct {
	seen     map[[32]byte]error
	complete int // states in which there is a snapshot
}

func (c *crashCheck) check(mark string, after *store.CrashFS) error {
	d, err := after.OpenDir(crashPath)
	if errors.Is(err, fs.ErrNotExist) {
		return wantIncomplete(mark, "the directory does not exist")
	}
	if err != nil {
		return err
	}
	names, err := d.List(context.Background())
	if err != nil {
		return err
	}
	sum := sha256.New()
	var manifest bool
	for _, name := range names {
		if strings.HasSuffix(name, store.Partial) {
			continue // nothing reads it
		}
		manifest = manifest || name == "manifest.json"
		data := after.DataOf(d, name)
		fmt.Fprintf(sum, "%s %d ", name, len(data))
		sum.Write(data)
	}
	if !manifest {
		return wantIncomplete(mark, "there is no manifest")
	}
	c.complete++
	key := [32]byte(sum.Sum(nil))
	err, known := c.seen[key]
	if !known {
		err = verifyDir(d)
		c.seen[key] = err
	}
	return err
}

func wantIncomplete(mark, what string) error {
	if mark == "finished" {
		return fmt.Errorf("after Finish returned, %s", what)
	}
	return nil
}

func verifyDir(d *store.Dir) error {
	r, err := snapshot.Open(context.Background(), d, snapshot.OpenOptions{})
	if err != nil {
		return err
	}
	_, err = r.Verify(context.Background(), nil)
	return errors.Join(err, r.Close())
}

// After Finish returned, a crash keeps a snapshot that verifies. A crash during writing
// or removal leaves a complete snapshot or none with a manifest.
func TestSnapshot_CrashAtEveryMoment(t *testing.T) {
	for _, links := range []bool{false, true} {
		for _, abort := range []bool{false, true} {
			t.Run(fmt.Sprintf("links=%v/abort=%v", links, abort), func(t *testing.T) {
				f := store.NewCrashFS(links, nil)
				writeCrashing(t, f, abort)
				c := &crashCheck{seen: map[[32]byte]error{}}
				states, err := f.CrashStates(c.check)
				if err != nil {
					t.Fatal(err)
				}
				if c.complete == 0 || c.complete == states {
					t.Errorf("%d of %d states have a snapshot: too few kinds to tell", c.complete, states)
				}
				t.Logf("%d steps, %d states, %d of them with a snapshot", f.Steps(), states, c.complete)
			})
		}
	}
}

// The check fails if a kind of sync is left out.
func TestSnapshot_CrashWithoutASync(t *testing.T) {
	for name, drops := range map[string]func(isDir bool, ino uint64) bool{
		"of files":               func(isDir bool, _ uint64) bool { return !isDir },
		"of all directories":     func(isDir bool, _ uint64) bool { return isDir },
		"of the topmost":         func(_ bool, ino uint64) bool { return ino == 1 },
		"of the directory above": func(_ bool, ino uint64) bool { return ino == 3 },
		"of its own directory":   func(_ bool, ino uint64) bool { return ino == 4 },
	} {
		f := store.NewCrashFS(false, drops)
		writeCrashing(t, f, false)
		if _, err := f.CrashStates((&crashCheck{seen: map[[32]byte]error{}}).check); err == nil {
			t.Errorf("without the sync %s, no crash loses the snapshot", name)
		}
	}
}

// CreateDir also makes a directory durable that another process has just created.
func TestCreateDir_CrashAfterAnotherProcessMadeTheParent(t *testing.T) {
	f := store.NewCrashFS(false, nil)
	for _, path := range []string{"/", "/backups", "/backups/today"} {
		name := strings.Split(crashPath, "/")[len(strings.FieldsFunc(path, func(c rune) bool { return c == '/' }))+1]
		if err := f.Mkdir(path, name); err != nil {
			t.Fatal(err)
		}
	}
	writeCrashing(t, f, false)
	if _, err := f.CrashStates((&crashCheck{seen: map[[32]byte]error{}}).check); err != nil {
		t.Error(err)
	}
}
