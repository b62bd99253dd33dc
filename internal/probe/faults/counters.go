package faults

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// faults returns the minor page faults of the calling thread or, with
// RUSAGE_SELF, of the process.
func faults(who int) (int64, error) {
	var u unix.Rusage
	if err := unix.Getrusage(who, &u); err != nil {
		return 0, fmt.Errorf("faults: counting page faults: %w", err)
	}
	return u.Minflt, nil
}

// counted adds the faults that take costs to total.
func counted(total *int64, take func() error) error {
	before, err := faults(unix.RUSAGE_THREAD)
	if err != nil {
		return err
	}
	if err := take(); err != nil {
		return err
	}
	after, err := faults(unix.RUSAGE_THREAD)
	*total += after - before
	return err
}

// errNoRow is that a kernel does not count something.
var errNoRow = errors.New("no such row")

// shootdowns returns the row TLB of /proc/interrupts, of all processors
// together: interrupts by which one had another drop translations. The row is
// of the whole system. Not all architectures have it.
func shootdowns(interrupts io.Reader) (uint64, error) {
	for lines := bufio.NewScanner(interrupts); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || fields[0] != "TLB:" {
			continue
		}
		var total uint64
		for _, f := range fields[1:] {
			n, err := strconv.ParseUint(f, 10, 64)
			if err != nil {
				break // the row's name
			}
			total += n
		}
		return total, nil
	}
	return 0, fmt.Errorf("TLB of /proc/interrupts: %w", errNoRow)
}

// vmstatTLB returns the rows nr_tlb_* of /proc/vmstat, which kernels have that
// were built to debug TLB flushes.
func vmstatTLB(vmstat io.Reader) map[string]uint64 {
	rows := map[string]uint64{}
	for lines := bufio.NewScanner(vmstat); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if !strings.HasPrefix(name, "nr_tlb_") {
			continue
		}
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			rows[name] = n
		}
	}
	return rows
}

func readShootdowns() (uint64, error) {
	text, err := os.ReadFile("/proc/interrupts")
	if err != nil {
		return 0, err
	}
	return shootdowns(bytes.NewReader(text))
}

func readVMStat() map[string]uint64 {
	text, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return nil
	}
	return vmstatTLB(bytes.NewReader(text))
}

// errUncounted is that shoot-downs happen and no row says so.
var errUncounted = errors.New("the row TLB of /proc/interrupts stays as it is when mappings are taken from under a thread that runs" +
	" (a virtual machine's kernel may ask its hypervisor to flush, some processors flush by themselves)")

// probeShootdowns says why shoot-downs cannot be read here, or nil: a row that
// is there and never moves would make a table of zeros.
func probeShootdowns() error {
	if runtime.GOMAXPROCS(0) < 2 || runtime.NumCPU() < 2 {
		return errors.New("there is one processor: shoot-downs take two")
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
	var copies int64
	err = counted(&copies, func() error {
		for at := 0; at < len(mem); at += size {
			mem[at] = sum + 1
		}
		return nil
	})
	return copies >= pages/2, err
}
