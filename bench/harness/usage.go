package harness

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is the processor time and the minor page faults of a process.
type Usage struct {
	CPU    time.Duration
	Faults int64
}

func usageNow() Usage {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return Usage{time.Duration(u.Utime.Nano() + u.Stime.Nano()), u.Minflt}
}

func (u Usage) Since(before Usage) Usage { return Usage{u.CPU - before.CPU, u.Faults - before.Faults} }

// UsageOf returns the usage of another process, with that of all its threads, including
// those that have ended.
func UsageOf(pid int) (u Usage, err error) {
	const schedClock = 2 // CPUCLOCK_SCHED of the whole process
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedClock), &ts); err != nil {
		return u, fmt.Errorf("the CPU clock of process %d: %w", pid, err)
	}
	u.CPU = time.Duration(ts.Nano())
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	// minflt is the eighth field after the name, which may have spaces.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 8 {
		return u, fmt.Errorf("process %d: %q", pid, text)
	}
	u.Faults, err = strconv.ParseInt(fields[7], 10, 64)
	return u, err
}

// ThreadCPU returns the processor time of a thread of another process.
func ThreadCPU(pid, thread int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/schedstat", pid, thread))
	if err != nil {
		return 0, err
	}
	running, _, _ := strings.Cut(string(text), " ")
	ns, err := strconv.ParseInt(running, 10, 64)
	return time.Duration(ns), err
}
