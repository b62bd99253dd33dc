package hugepages

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// lockIsFree reports whether another process could lock the pool. A lock belongs to an open
// file, so a second open file of this process behaves like one of another process.
func lockIsFree(t *testing.T) bool {
	t.Helper()
	f, err := os.Open(folder + "nr_hugepages")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
		t.Fatal(err)
	}
	return err == nil
}

func TestReserve_LocksThePoolUntilAllUsersRelease(t *testing.T) {
	first, err := Reserve(0)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("this system has no huge pages of 2 MiB")
	}
	if err != nil {
		t.Fatal(err)
	}
	second, err := Reserve(0) // the same process does not wait for itself
	if err != nil {
		t.Fatal(err)
	}
	first()
	if lockIsFree(t) {
		t.Error("the pool is not locked while the second user has its pages")
	}
	second()
	if pool.users != 0 {
		t.Errorf("%d users are left", pool.users)
	}
}
