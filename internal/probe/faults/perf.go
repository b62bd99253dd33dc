package faults

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// misses counts translations that the processor did not have at hand, of loads
// and of stores, in user code of one thread.
type misses struct{ loads, stores int } // descriptors

// openMisses opens the counters for the calling thread. It fails where the
// processor has none or does not show them, as in most virtual machines, and
// where perf_event_open is not permitted.
func openMisses() (*misses, error) {
	loads, err := openMiss(unix.PERF_COUNT_HW_CACHE_OP_READ)
	if err != nil {
		return nil, fmt.Errorf("dTLB load misses: %w", err)
	}
	stores, err := openMiss(unix.PERF_COUNT_HW_CACHE_OP_WRITE)
	if err != nil {
		unix.Close(loads)
		return nil, fmt.Errorf("dTLB store misses: %w", err)
	}
	return &misses{loads, stores}, nil
}

func openMiss(op uint64) (fd int, err error) {
	attr := unix.PerfEventAttr{
		Type:        unix.PERF_TYPE_HW_CACHE,
		Size:        uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Config:      unix.PERF_COUNT_HW_CACHE_DTLB | op<<8 | unix.PERF_COUNT_HW_CACHE_RESULT_MISS<<16,
		Read_format: unix.PERF_FORMAT_TOTAL_TIME_ENABLED | unix.PERF_FORMAT_TOTAL_TIME_RUNNING,
		Bits:        unix.PerfBitDisabled | unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv,
	}
	fd, err = unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	switch err {
	case nil:
		return fd, nil
	case unix.ENOENT, unix.EOPNOTSUPP, unix.ENODEV:
		return 0, fmt.Errorf("the processor, or the virtual machine, has no such counter (perf_event_open: %w)", err)
	case unix.EACCES, unix.EPERM:
		return 0, fmt.Errorf("not permitted: write 2 or less to /proc/sys/kernel/perf_event_paranoid (perf_event_open: %w)", err)
	}
	return 0, fmt.Errorf("perf_event_open: %w", err)
}

func (m *misses) close() {
	unix.Close(m.loads)
	unix.Close(m.stores)
}

// start sets both counters to 0 and lets them run.
func (m *misses) start() error {
	for _, fd := range []int{m.loads, m.stores} {
		if err := errors.Join(unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_RESET, 0), unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0)); err != nil {
			return fmt.Errorf("starting a counter: %w", err)
		}
	}
	return nil
}

// stop holds both counters and returns them.
func (m *misses) stop() (loads, stores uint64, err error) {
	var n [2]uint64
	for i, fd := range []int{m.loads, m.stores} {
		if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_DISABLE, 0); err != nil {
			return 0, 0, fmt.Errorf("stopping a counter: %w", err)
		}
		if n[i], err = readMiss(fd); err != nil {
			return 0, 0, err
		}
	}
	return n[0], n[1], nil
}

// readMiss returns a counter that counted all the time. One that had to share
// the processor's registers would be an estimate.
func readMiss(fd int) (uint64, error) {
	var buf [24]byte
	if n, err := unix.Read(fd, buf[:]); err != nil || n != len(buf) {
		return 0, fmt.Errorf("reading a counter: %d bytes, %w", n, err)
	}
	value := binary.NativeEndian.Uint64(buf[:])
	enabled, running := binary.NativeEndian.Uint64(buf[8:]), binary.NativeEndian.Uint64(buf[16:])
	if enabled == 0 || running < enabled-enabled/100 {
		return 0, errors.New("a counter ran for part of the time only: somebody else uses the processor's counters")
	}
	return value, nil
}
