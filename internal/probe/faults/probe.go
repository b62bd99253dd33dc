package faults

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// errUncounted is that shoot-downs happen and no row says so.
var errUncounted = errors.New("the row TLB of /proc/interrupts stays as it is when mappings are taken from under a thread that runs" +
	" (a virtual machine's kernel may ask its hypervisor to flush, some processors flush by themselves)")

// probeShootdowns says why shoot-downs cannot be read here, or nil: a row that
// is there and never moves would make a table of zeros.
func probeShootdowns() error {
	if runtime.GOMAXPROCS(0) < 2 || runtime.NumCPU() < 2 {
		return errors.New("there is one processor, and nobody to shoot at")
	}
	before, err := readShootdowns()
	if err != nil {
		return err
	}
	if err := provoke(64); err != nil {
		return err
	}
	after, err := readShootdowns()
	if err == nil && after == before {
		err = errUncounted
	}
	return err
}

// provoke takes the permission to write from a page that was written to, count
// times, which every processor that runs this process has to learn.
func provoke(count int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	by := newBystander()
	defer by.stop()
	mem, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("faults: mapping a page: %w", err)
	}
	defer unix.Munmap(mem)
	for range count {
		mem[0]++
		for _, prot := range []int{unix.PROT_READ, unix.PROT_READ | unix.PROT_WRITE} {
			if err := unix.Mprotect(mem, prot); err != nil {
				return fmt.Errorf("faults: protecting a page: %w", err)
			}
		}
	}
	return nil
}
