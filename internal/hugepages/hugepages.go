// Package hugepages sets huge pages aside for tests and benchmarks.
package hugepages

import (
	"fmt"
	"os"
	"strconv"
	"strings"
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

// Reserve sees to it that n huge pages are free, which needs root unless they
// are already, and returns a function that gives them back.
func Reserve(n int) (giveBack func(), err error) {
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
