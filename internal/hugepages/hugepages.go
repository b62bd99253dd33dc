// Package hugepages sets huge pages aside for tests and benchmarks.
package hugepages

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Size is the size in bytes of the pages that Reserve sets aside.
const Size = 2 << 20

const folder = "/sys/kernel/mm/hugepages/hugepages-2048kB/"

func read(name string) (int, error) {
	text, err := os.ReadFile(folder + name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// pool is this process's turn at the system's pool. Tests of several packages
// run side by side, and one would give back what another counts on.
var pool struct {
	sync.Mutex
	users int
	file  *os.File // locked while there are users
}

// take waits for the process's turn.
func take() error {
	pool.Lock()
	defer pool.Unlock()
	if pool.users == 0 {
		f, err := os.Open(folder + "nr_hugepages")
		if err != nil {
			return err
		}
		if err := lock(f); err != nil {
			f.Close()
			return fmt.Errorf("waiting for huge pages: %w", err)
		}
		pool.file = f
	}
	pool.users++
	return nil
}

func lock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			return err
		}
	}
}

func leave() {
	pool.Lock()
	defer pool.Unlock()
	if pool.users--; pool.users == 0 {
		pool.file.Close() // and with it the lock
	}
}

// Reserve sees to it that n huge pages are free, which needs root unless they
// are already, and returns a function that gives them back. Until that is
// called, Reserve in another process waits.
func Reserve(n int) (giveBack func(), err error) {
	if err := take(); err != nil {
		return nil, err
	}
	restore, err := reserve(n)
	if err != nil {
		leave()
		return nil, err
	}
	return func() { restore(); leave() }, nil
}

func reserve(n int) (giveBack func(), err error) {
	total, err := read("nr_hugepages")
	if err != nil {
		return nil, err
	}
	free, err := read("free_hugepages")
	if err != nil {
		return nil, err
	}
	reserved, err := read("resv_hugepages")
	if err != nil {
		return nil, err
	}
	missing := n - (free - reserved)
	if missing <= 0 {
		return func() {}, nil
	}
	set := func(n int) error { return os.WriteFile(folder+"nr_hugepages", []byte(strconv.Itoa(n)), 0) }
	if err := set(total + missing); err != nil {
		return nil, fmt.Errorf("setting %d huge pages aside: %w", missing, err)
	}
	giveBack = func() { set(total) }
	if got, err := read("nr_hugepages"); err != nil || got < total+missing {
		giveBack()
		return nil, fmt.Errorf("setting %d huge pages aside: the kernel found %d (%v)", missing, got-total, err)
	}
	return giveBack, nil
}
