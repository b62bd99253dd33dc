package iaamodel

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/iaa"
)

// Machine is a machine with modelled accelerators. It is the iaa.System for a driver
// under test, which Options configures.
type Machine struct {
	cfg        Config
	sysfs, dev string
	mem        memory
	memo       *memo // with a Clock
	start      time.Time

	mu         sync.Mutex // everything below, and the devices' and queues' state
	wake       *sync.Cond // engines wait here for jobs and for release
	rng        *rand.Rand
	flushes    *rand.Rand // for the times of flushes
	devices    []*device
	queues     map[string]*queue // by path of the node
	seq        uint64
	busy       map[uint64]*job // records and destinations that a device may write to
	violations []string
	released   bool
	closed     bool
	stats      Stats
	unreported atomic.Int64
	engines    sync.WaitGroup
	delayed    sync.WaitGroup
}

// Stats counts what the machine has seen.
type Stats struct {
	Accepted   int           // descriptors
	Refused    int           // submissions to a full or stopped queue
	Dropped    int           // descriptors that vanished, by script or overflow
	Faults     int           // page faults reported in records
	Resolved   int           // page faults that a device waited for
	Busy       time.Duration // engine time in use, with a Clock
	FaultStall time.Duration // of it, waiting for page faults to be resolved
	Unreported int           // completions whose record could not be written

	Translation TranslationStats
	Processor   ProcessorStats
}

// maxViolations bounds the list: the first ones show the error.
const maxViolations = 20

// New builds a machine and writes its sysfs tree and nodes below dir.
func New(dir string, cfg Config) (*Machine, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Machine{
		cfg: cfg, sysfs: filepath.Join(dir, "sys"), dev: filepath.Join(dir, "dev"), start: time.Now(),
		rng: rand.New(rand.NewPCG(cfg.Seed, 1)), flushes: rand.New(rand.NewPCG(cfg.Seed, 2)), queues: make(map[string]*queue), busy: make(map[uint64]*job),
	}
	m.wake = sync.NewCond(&m.mu)
	if cfg.Clock != nil {
		m.memo = newMemo()
	}
	if err := writeTree(m.sysfs, m.dev, cfg); err != nil {
		return nil, fmt.Errorf("iaamodel: write sysfs tree: %w", err)
	}
	var units []*iommu
	if cfg.IOMMU != nil {
		for i := range cmp.Or(cfg.IOMMU.Units, len(cfg.Devices)) {
			units = append(units, &iommu{rng: rand.New(rand.NewPCG(cfg.Seed, 3+uint64(i)))})
		}
	}
	for i, dc := range cfg.Devices {
		d := &device{m: m, name: deviceName(i), cfg: dc, idle: dc.Engines}
		if cfg.IOMMU != nil {
			d.unit, d.tlb = units[i%len(units)], newTLB(cfg.IOMMU.Entries)
		}
		for j, qc := range dc.Queues {
			q := &queue{m: m, dev: d, name: queueName(i, j), cfg: qc, running: make(map[uint64]*job), stopped: qc.State != "enabled"}
			d.queues = append(d.queues, q)
			if !qc.NoNode {
				m.queues[filepath.Join(m.dev, q.name)] = q
			}
		}
		m.devices = append(m.devices, d)
		if cfg.Clock == nil {
			for range dc.Engines {
				m.engines.Go(d.engine)
			}
		}
	}
	return m, nil
}

// Options returns driver options that point at the machine.
func (m *Machine) Options() iaa.Options {
	return iaa.Options{SysfsRoot: m.sysfs, DevRoot: m.dev, System: m}
}

// Close stops the engines. Nothing may be submitted any more.
func (m *Machine) Close() error {
	m.mu.Lock()
	m.closed, m.released = true, true
	m.wake.Broadcast()
	m.mu.Unlock()
	m.engines.Wait()
	m.delayed.Wait()
	return nil
}

// Release ends hung jobs without completing them.
func (m *Machine) Release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.released = true
	m.wake.Broadcast()
}

// Stats returns the counts so far.
func (m *Machine) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.Unreported = int(m.unreported.Load())
	return s
}

// Violations lists errors of the driver: memory reused or unmapped while a device could
// write to it, a dedicated queue overrun, and the like. It is empty for a correct
// driver.
func (m *Machine) Violations() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.violations...)
}

func (m *Machine) violate(format string, args ...any) {
	if len(m.violations) < maxViolations {
		m.violations = append(m.violations, fmt.Sprintf(format, args...))
	}
}

// Live counts the open nodes and the mapped regions of the driver.
func (m *Machine) Live() (nodes, regions int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, q := range m.queues {
		nodes += q.opened
	}
	return nodes, m.mem.live()
}

// Guest returns memory that stands for a guest's: known to the page table, all
// present or all absent, and not counted as the driver's until registered. It
// is released with Unmap.
func (m *Machine) Guest(size int, here bool) ([]byte, error) {
	if size <= 0 {
		return nil, fmt.Errorf("iaamodel: guest memory of %d bytes", size)
	}
	return m.newMemory(size, here)
}

func (m *Machine) newMemory(size int, here bool) ([]byte, error) {
	whole := (size + pageSize - 1) / pageSize * pageSize
	mem := []byte(nil)
	if m.cfg.Mapped {
		var err error
		mem, err = unix.Mmap(-1, 0, whole, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return nil, fmt.Errorf("iaamodel: map %d bytes: %w", whole, err)
		}
	} else {
		mem = heapPages(whole)
	}
	if err := m.mem.add(mem, here); err != nil {
		return nil, err
	}
	return mem[:size], nil
}

// Evict makes the pages that hold mem absent, as reclaim or a balloon does.
func (m *Machine) Evict(mem []byte) {
	m.forget(addressOf(mem), len(mem))
	m.mem.set(addressOf(mem), len(mem), evicted)
}

// Protect makes the pages that hold mem permanently read-only.
func (m *Machine) Protect(mem []byte) {
	m.mem.set(addressOf(mem), len(mem), func(pageState) pageState { return present | readOnly })
}

// Userfault makes the pages that hold mem absent. The kernel cannot make them present
// for a device, only for a processor that touches them.
func (m *Machine) Userfault(mem []byte) {
	m.mem.set(addressOf(mem), len(mem), func(pageState) pageState { return unfixable })
}

// Present reports whether every page that holds mem is present and writable.
func (m *Machine) Present(mem []byte) bool {
	all := true
	m.mem.set(addressOf(mem), len(mem), func(s pageState) pageState {
		all = all && s&(present|writable) == present|writable
		return s
	})
	return all
}

// The methods below are iaa.System.

// OpenQueue opens a queue's node.
func (m *Machine) OpenQueue(path string) (iaa.Node, error) {
	fail := func(err error) (iaa.Node, error) { return nil, &os.PathError{Op: "open", Path: path, Err: err} }
	m.mu.Lock()
	defer m.mu.Unlock()
	q := m.queues[path]
	switch {
	case q == nil:
		return fail(unix.ENOENT)
	case q.cfg.Perm&0o600 != 0o600:
		return fail(unix.EACCES)
	case q.stopped:
		return fail(unix.ENXIO)
	case q.cfg.Mode == "dedicated" && q.opened > 0:
		return fail(unix.EBUSY)
	}
	q.opened++
	return &node{q: q}, nil
}

// Instructions returns those of Config.
func (m *Machine) Instructions() iaa.Instructions { return *m.cfg.Instructions }

// Map returns memory that devices reach, from the heap or from mmap.
func (m *Machine) Map(size int, populate bool) ([]byte, error) { return m.newMemory(size, populate) }

// Unmap forgets memory. Unmapping what a device may still write to is a violation.
func (m *Machine) Unmap(mem []byte) error {
	if len(mem) == 0 {
		return errors.New("iaamodel: unmap of no memory")
	}
	m.mu.Lock()
	base, end := addressOf(mem), addressOf(mem)+uint64(len(mem))
	for addr, who := range m.busy {
		if base <= addr && addr < end {
			m.violate("memory at %#x unmapped while %v may write to it", addr, who)
		}
	}
	m.mu.Unlock()
	if !m.mem.remove(mem) {
		return fmt.Errorf("iaamodel: unmap of %d bytes at %#x: not mapped", len(mem), base)
	}
	m.forget(base, len(mem))
	m.remap(0, 1)
	if m.cfg.Mapped {
		whole := (len(mem) + pageSize - 1) / pageSize * pageSize
		return unix.Munmap(mem[:whole])
	}
	return nil
}

// Touch touches the word as a host does, and notes that its page is present.
func (m *Machine) Touch(word *uint32, write bool) {
	touchWord(word, write)
	m.access(addressOfWord(word), 4, write)
}

// Read reads memory as a processor does, and notes that its pages are present. Pages that were
// absent map the zero page then.
func (m *Machine) Read(mem []byte) { m.access(addressOf(mem), len(mem), false) }

// access makes pages present for an access of the processor, and writable if it writes. In
// virtual time each page that changes costs a page fault, and a flush if devices may have
// cached its mapping.
func (m *Machine) access(addr uint64, n int, write bool) {
	faults, remapped := 0, 0
	m.mem.set(addr, n, func(s pageState) pageState {
		now := touched(write)(s)
		if now != s {
			faults++
			if s&present != 0 {
				remapped++
				m.forget(addr, n)
			}
		}
		return now
	})
	m.remap(faults, remapped)
}

// Copy copies. In virtual time it costs the time of the bytes, and of a page fault for
// each absent page that it writes to.
func (m *Machine) Copy(dst, src []byte) {
	copy(dst, src)
	if len(dst) > 0 {
		m.access(addressOf(dst), len(dst), true)
	}
	m.charge(time.Duration(m.cfg.Timing.Copy*float64(len(src))), &m.stats.Processor.Copying)
}

// Now is virtual time with a Clock, and time since New without.
func (m *Machine) Now() time.Duration {
	if c := m.cfg.Clock; c != nil {
		return c.Now()
	}
	return time.Since(m.start)
}

// yieldRounds is how many times Relax yields before it sleeps.
const yieldRounds = 256

// Relax lets engines run.
func (m *Machine) Relax(_ *uint32, _ uint32, round int) {
	switch {
	case m.cfg.Clock != nil:
		began := m.cfg.Clock.Now()
		m.cfg.Clock.idle(m.cfg.Timing.Poll)
		m.mu.Lock()
		m.stats.Processor.Waiting += m.cfg.Clock.Now() - began
		m.mu.Unlock()
	case round < yieldRounds:
		runtime.Gosched()
	default:
		time.Sleep(20 * time.Microsecond)
	}
}
