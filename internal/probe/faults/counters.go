package faults

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
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
