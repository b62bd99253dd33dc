// Package hugepages reserves huge pages for tests and benchmarks.
package hugepages

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Size is the size in bytes of the pages that Reserve reserves.
const Size = 2 << 20

const folder = "/sys/kernel/mm/hugepages/hugepages-2048kB/"

func read(name string) (int, error) {
	text, err := os.ReadFile(folder + name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// pool is the lock of this process on the system's pool of huge pages. Tests of several
// packages run at the same time; without the lock, one would release the pages that
// another uses.
var pool struct {
	sync.Mutex
	users int
	file  *os.File // locked while there are users
}

// acquirePool locks the pool, if this process has not locked it yet.
func acquirePool() error {
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

func releasePool() {
	pool.Lock()
	defer pool.Unlock()
	if pool.users--; pool.users == 0 {
		pool.file.Close() // releases the lock
	}
}

// Reserve makes n huge pages available. It needs root if fewer pages are free. The caller
// must call release, which restores the size of the pool; until then, Reserve in another
// process waits.
func Reserve(n int) (release func(), err error) {
	if err := acquirePool(); err != nil {
		return nil, err
	}
	restore, err := reserve(n)
	if err != nil {
		releasePool()
		return nil, err
	}
	return func() { restore(); releasePool() }, nil
}

func reserve(n int) (release func(), err error) {
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
		return nil, fmt.Errorf("reserving %d huge pages: %w", missing, err)
	}
	release = func() { set(total) }
	if got, err := read("nr_hugepages"); err != nil || got < total+missing {
		release()
		return nil, fmt.Errorf("reserving %d huge pages: the kernel has memory for %d (%v)", missing, got-total, err)
	}
	return release, nil
}
