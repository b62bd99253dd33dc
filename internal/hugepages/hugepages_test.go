package hugepages

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// another says whether another process could have its turn now: another open
// file is what a lock knows one by.
func another(t *testing.T) bool {
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

func TestNobodyElseReservesUntilAllIsGivenBack(t *testing.T) {
	first, err := Reserve(0)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("this system has no huge pages of 2 MiB")
	}
	if err != nil {
		t.Fatal(err)
	}
	second, err := Reserve(0) // of the same process: does not wait for itself
	if err != nil {
		t.Fatal(err)
	}
	first()
	if another(t) {
		t.Error("another process could take pages while they are in use")
	}
	second()
	if pool.users != 0 {
		t.Errorf("%d users are left", pool.users)
	}
}
