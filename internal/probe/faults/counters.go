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

// countFaults calls take and adds the number of its page faults to total.
func countFaults(total *int64, take func() error) error {
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

// errNoRow says that the kernel does not have a counter.
var errNoRow = errors.New("no such row")

// shootdowns returns the sum of the row TLB of /proc/interrupts over all processors: the
// interrupts with which a processor made another one drop translations. The row counts for
// the whole system. Not all architectures have it.
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

// vmstatTLB returns the rows nr_tlb_* of /proc/vmstat. Only kernels with
// CONFIG_DEBUG_TLBFLUSH have them.
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

// errUncounted says that the kernel does not count shoot-downs.
var errUncounted = errors.New("the row TLB of /proc/interrupts does not change when mappings of a running thread are changed" +
	" (a virtual machine's kernel may ask its hypervisor to flush, some processors flush by themselves)")

// probeShootdowns returns the reason why shoot-downs cannot be read here, or nil. A row that
// never changes would otherwise give a table of zeros.
func probeShootdowns() error {
	if runtime.GOMAXPROCS(0) < 2 || runtime.NumCPU() < 2 {
		return errors.New("only one processor (shoot-downs need two)")
	}
	before, err := readShootdowns()
	if err != nil {
		return err
	}
	if err := causeShootdowns(64); err != nil {
		return err
	}
	after, err := readShootdowns()
	if err == nil && after == before {
		err = errUncounted
	}
	return err
}

// causeShootdowns revokes the write permission of a written page count times. Every
// processor that runs this process must then drop its translation.
func causeShootdowns(count int) error {
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

// sharesZeroPage reports whether the kernel maps a shared zero page at the first read of a
// page, and copies it at a later write. Linux does. Some other kernels give each page its
// own memory at the read.
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
	err = countFaults(&copies, func() error {
		for at := 0; at < len(mem); at += size {
			mem[at] = sum + 1
		}
		return nil
	})
	return copies >= pages/2, err
}
