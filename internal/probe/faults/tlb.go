package faults

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// NotRead is a counter that cannot be read on this machine.
type NotRead struct {
	Counter string `json:"counter"`
	Reason  string `json:"reason"`
}

// tlb reads the available counters of address translations of one thread.
type tlb struct {
	counted bool    // the row TLB of /proc/interrupts counts shoot-downs
	misses  *misses // nil if there are no counters
	not     []NotRead

	shootdowns uint64 // at start
	vmstat     map[string]uint64
}

// newTLB finds the available counters, and the reasons why the others are not available.
func newTLB() *tlb {
	t := new(tlb)
	if err := probeShootdowns(); err != nil {
		t.not = append(t.not, NotRead{"tlb_shootdowns", err.Error()})
	} else {
		t.counted = true
	}
	m, err := openMisses()
	if err != nil {
		t.not = append(t.not, NotRead{"dtlb_misses", err.Error()})
	}
	t.misses = m
	if len(readVMStat()) == 0 {
		t.not = append(t.not, NotRead{"vmstat", "/proc/vmstat has no rows nr_tlb_* (a kernel has them if built with CONFIG_DEBUG_TLBFLUSH)"})
	}
	return t
}

func (t *tlb) close() {
	if t.misses != nil {
		t.misses.close()
		t.misses = nil
	}
}

func (t *tlb) start() (err error) {
	t.vmstat = readVMStat()
	if t.counted {
		if t.shootdowns, err = readShootdowns(); err != nil {
			return fmt.Errorf("faults: %w", err)
		}
	}
	if t.misses != nil {
		err = t.misses.start()
	}
	return err
}

// stop stores the counts since start in f.
func (t *tlb) stop(f *Figures) error {
	if t.misses != nil {
		loads, stores, err := t.misses.stop()
		if err != nil { // do not try again: the median needs a value from every run
			t.close()
			t.not = append(t.not, NotRead{"dtlb_misses", err.Error()})
		} else {
			l, s := float64(loads), float64(stores)
			f.DTLBLoadMisses, f.DTLBStoreMisses = &l, &s
		}
	}
	if t.counted {
		now, err := readShootdowns()
		if err != nil {
			return fmt.Errorf("faults: %w", err)
		}
		n := float64(now - t.shootdowns)
		f.TLBShootdowns = &n
	}
	for name, now := range readVMStat() {
		if f.VMStat == nil {
			f.VMStat = map[string]float64{}
		}
		f.VMStat[name] = float64(now - t.vmstat[name])
	}
	return nil
}

// misses counts the TLB misses of loads and of stores in user code of one thread.
type misses struct{ loads, stores int } // descriptors

// openMisses opens the counters for the calling thread. It fails if the processor has no
// such counters, as in most virtual machines, or if perf_event_open is not permitted.
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

// start resets and starts both counters.
func (m *misses) start() error {
	for _, fd := range []int{m.loads, m.stores} {
		if err := errors.Join(unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_RESET, 0), unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0)); err != nil {
			return fmt.Errorf("starting a counter: %w", err)
		}
	}
	return nil
}

// stop stops both counters and returns their values.
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

// readMiss returns the value of a counter. It fails if the counter did not count all the time,
// because its value is then an estimate.
func readMiss(fd int) (uint64, error) {
	var buf [24]byte
	if n, err := unix.Read(fd, buf[:]); err != nil || n != len(buf) {
		return 0, fmt.Errorf("reading a counter: %d bytes, %w", n, err)
	}
	value := binary.NativeEndian.Uint64(buf[:])
	enabled, running := binary.NativeEndian.Uint64(buf[8:]), binary.NativeEndian.Uint64(buf[16:])
	if enabled == 0 || running < enabled-enabled/100 {
		return 0, errors.New("a counter ran for part of the time only: another program uses the processor's counters")
	}
	return value, nil
}
