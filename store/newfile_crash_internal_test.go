package store

import (
	"errors"
	"fmt"
	"testing"
)

// An exported file appears when it is complete, and then stays.
func TestNewFile_CrashAtEveryMoment(t *testing.T) {
	f := newCrashFS()
	if err := f.openRoot().mkdir("out"); err != nil {
		t.Fatal(err)
	}
	f.openRoot().sync()
	out, err := createFile(f, "/out/ram")
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Truncate(8); err != nil {
		t.Fatal(err)
	}
	if _, err := out.WriteAt([]byte("data"), 4); err != nil {
		t.Fatal(err)
	}
	if err := out.Commit(); err != nil {
		t.Fatal(err)
	}
	f.mark("finished")
	whole := 0
	_, err = f.crashStates(func(mark string, after *crashFS) error {
		n := after.root.entries["out"]
		if n != nil {
			n = n.entries["ram"]
		}
		if n == nil {
			if mark == "finished" {
				return errors.New("after Commit returned, there is no file")
			}
			return nil
		}
		whole++
		if string(n.data) != "\x00\x00\x00\x00data" {
			return fmt.Errorf("the file is %q", n.data)
		}
		return nil
	})
	if err != nil || whole == 0 {
		t.Errorf("%d states have the file, %v", whole, err)
	}
}
