package faults

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// sharesZeroPage says whether the kernel answers the read of a fresh page with
// one zero page for all, which a later write has to copy. Linux does; some
// kernels of virtual machines give each page its own memory at the read.
func sharesZeroPage() (bool, error) {
	const pages = 64
	size := os.Getpagesize()
	mem, err := unix.Mmap(-1, 0, pages*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return false, fmt.Errorf("faults: mapping %d pages: %w", pages, err)
	}
	defer unix.Munmap(mem)
	var sum byte
	for at := 0; at < len(mem); at += size {
		sum += mem[at]
	}
	before, err := faults(unix.RUSAGE_THREAD)
	if err != nil {
		return false, err
	}
	for at := 0; at < len(mem); at += size {
		mem[at] = sum + 1
	}
	after, err := faults(unix.RUSAGE_THREAD)
	return after-before >= pages/2, err
}
