package iaamodel

import (
	"fmt"
	"io/fs"
	"time"

	"github.com/vmferry/vmferry/iaa"
)

// Config describes a machine.
type Config struct {
	Devices []Device
	// Instructions are those that the processor reports; nil means all.
	Instructions *iaa.Instructions
	// Seed is the seed of all random choices.
	Seed uint64
	// Clock, if set, makes the machine a simulation in virtual time: Timing gives the
	// times of jobs, and all code runs in one thread. If Clock is nil, engines are
	// goroutines.
	Clock *Clock
	// Timing is used with a Clock; its zero value is PublishedTiming.
	Timing *Timing
	// IOMMU, if set, models how devices translate addresses. It is used with a Clock. If IOMMU
	// is nil, translations take no time, and the kernel serves page faults of devices at once.
	IOMMU *IOMMU
	// Script injects faults; the zero value has none.
	Script Script
	// Mapped gives the driver memory from mmap, as a host does. Otherwise it
	// comes from the Go heap, page-aligned, where the race detector sees every
	// access of driver and engines to it.
	Mapped bool
}

// Device describes an accelerator. Zero fields get the values of the device that
// reference tables describe: version 1, enabled, 8 engines, PASID on.
type Device struct {
	Version   uint32 // 0x100 or 0x200
	State     string
	NoPASID   bool
	NoOpcodes bool // op_cap lacks COMPRESS and DECOMPRESS
	Node      int
	Engines   int
	Queues    []Queue
}

// Queue describes a work queue. Zero fields give an enabled, shared user queue
// of 128 entries that allows mmap.
type Queue struct {
	Mode         string // "shared" or "dedicated"
	State        string
	Type         string
	Driver       string
	Size         int
	Threshold    int
	BlockOnFault bool
	MaxTransfer  uint32
	RefuseMmap   bool        // EPERM, as after CVE-2024-21823
	RefuseWrite  bool        // EINVAL, as before it
	Inherited    bool        // EPERM from mmap and write, as of a descriptor that another process opened
	NoNode       bool        // the character device is missing
	Perm         fs.FileMode // of the character device, 0600 if 0
}

// Defaults of a Device and Queue.
const (
	defaultEngines  = 8
	defaultSize     = 128
	defaultTransfer = 2 << 20
	genCap          = 0x71f10901f0105
)

// withDefaults fills zero fields of copies, never the caller's.
func (c Config) withDefaults() (Config, error) {
	devices := make([]Device, len(c.Devices))
	for i, d := range c.Devices {
		setDefault(&d.Version, 0x100)
		setDefault(&d.State, "enabled")
		setDefault(&d.Engines, defaultEngines)
		queues := make([]Queue, len(d.Queues))
		for j, q := range d.Queues {
			setDefault(&q.Mode, "shared")
			setDefault(&q.State, "enabled")
			setDefault(&q.Type, "user")
			setDefault(&q.Driver, "user")
			setDefault(&q.Size, defaultSize)
			setDefault(&q.Threshold, q.Size)
			setDefault(&q.MaxTransfer, defaultTransfer)
			setDefault(&q.Perm, 0o600)
			if q.Mode != "shared" && q.Mode != "dedicated" {
				return c, fmt.Errorf("iaamodel: queue %d of device %d: mode %q: want shared or dedicated", j, i, q.Mode)
			}
			queues[j] = q
		}
		d.Queues = queues
		devices[i] = d
	}
	c.Devices = devices
	if c.Instructions == nil {
		c.Instructions = &iaa.Instructions{ENQCMD: true, MOVDIR64B: true}
	}
	if c.Clock == nil {
		c.IOMMU = nil
	}
	if c.Timing == nil {
		t := PublishedTiming
		c.Timing = &t
	}
	return c, nil
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Uniform is a configuration of n equal devices, each with one shared queue of
// 128 entries and, if given, what edit changes about it.
func Uniform(n int, edit func(*Device)) Config {
	var c Config
	for range n {
		d := Device{Queues: []Queue{{}}}
		if edit != nil {
			edit(&d)
		}
		c.Devices = append(c.Devices, d)
	}
	return c
}

// Timing holds costs in virtual time.
type Timing struct {
	Operation   time.Duration // an engine's fixed cost of a job
	PerByte     float64       // and its cost for each byte of the page, in ns
	Jitter      float64       // both vary by up to this fraction either way
	DeviceRate  float64       // bytes of pages a second that a device's engines reach together; 0 is unlimited
	FaultReport time.Duration // a job that ends in a page fault

	// Costs of the processor.
	Driver                time.Duration // the driver's own work for a job, charged with its submission
	Enqcmd, Movdir, Write time.Duration // a submission
	Touch                 time.Duration // a page fault that makes a page present or writable
	Copy                  float64       // copying, in ns a byte
	Poll                  time.Duration // a poll of a record, at least
}

// PublishedTiming has the published figures for the device (1.2 us and 0.49 ns a byte
// for an engine, about 3 GB/s for a device). The processor's costs are not published;
// these are assumptions of the right order of magnitude, and the benchmark prints them.
// Driver is to be measured.
var PublishedTiming = Timing{
	Operation:   1200 * time.Nanosecond,
	PerByte:     0.49,
	Jitter:      0.1,
	DeviceRate:  3e9,
	FaultReport: 1200 * time.Nanosecond,
	Enqcmd:      150 * time.Nanosecond,
	Movdir:      30 * time.Nanosecond,
	Write:       400 * time.Nanosecond,
	Touch:       500 * time.Nanosecond,
	Copy:        0.1,
	Poll:        50 * time.Nanosecond,
}
