package iaa

import (
	"fmt"
	"log/slog"
	"time"
)

// Defaults of Options.
const (
	DefaultSysfsRoot    = "/sys/bus/dsa/devices"
	DefaultDevRoot      = "/dev/iax"
	DefaultRetries      = 3
	DefaultFaultRetries = 8
	DefaultJobTimeout   = time.Second
	DefaultDrainTimeout = 5 * time.Second
)

// Options select and configure devices. The zero value uses every usable queue of the
// host.
type Options struct {
	// SysfsRoot and DevRoot are the directories of the devices and of their nodes.
	SysfsRoot, DevRoot string
	// Nodes are the NUMA nodes of the memory that jobs use. Queues of devices on other
	// nodes get a job only if the queues on these nodes are full. If Nodes is empty,
	// all queues are equal.
	Nodes []int
	// Filter, if set, is called for every usable queue. A queue for which it returns
	// false is not used.
	Filter func(QueueInfo) bool
	// Retries is how many times a submission is tried again while every queue is full,
	// before it fails with ErrQueueFull. 0 means DefaultRetries, a negative number
	// none.
	Retries int
	// FaultRetries is how many times a job is submitted again after page faults before
	// it fails with ErrFaults. 0 means DefaultFaultRetries.
	FaultRetries int
	// JobTimeout is how long a job may take, resubmissions included, before it
	// fails with ErrTimeout. 0 means DefaultJobTimeout.
	JobTimeout time.Duration
	// DrainTimeout bounds Session.Drain and Session.Close, which wait for outstanding
	// jobs. 0 means DefaultDrainTimeout.
	DrainTimeout time.Duration
	// NoBlockOnFault makes devices report page faults instead of waiting for them, on
	// queues that allow both.
	NoBlockOnFault bool
	// Logger gets messages about queues that are left out or given up. Nil discards
	// them.
	Logger *slog.Logger
	// System is the machine; nil means the host.
	System System
}

func (o Options) withDefaults() Options {
	if o.SysfsRoot == "" {
		o.SysfsRoot = DefaultSysfsRoot
	}
	if o.DevRoot == "" {
		o.DevRoot = DefaultDevRoot
	}
	if o.Retries == 0 {
		o.Retries = DefaultRetries
	}
	o.Retries = max(o.Retries, 0)
	if o.FaultRetries == 0 {
		o.FaultRetries = DefaultFaultRetries
	}
	if o.JobTimeout == 0 {
		o.JobTimeout = DefaultJobTimeout
	}
	if o.DrainTimeout == 0 {
		o.DrainTimeout = DefaultDrainTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.System == nil {
		o.System = defaultSystem()
	}
	return o
}

// Prefault is how the buffers of a session become present before a device first uses
// them. A page that is not present costs the device a page fault.
type Prefault int

// Prefault policies.
const (
	// PrefaultPopulate lets the kernel fault in all pages while mapping.
	PrefaultPopulate Prefault = iota
	// PrefaultTouch writes to every page after mapping.
	PrefaultTouch
	// PrefaultNone leaves the page faults to the first use, to measure their cost.
	PrefaultNone
)

var prefaultNames = []string{"populate", "touch", "none"}

// String returns the policy's name.
func (p Prefault) String() string {
	if p >= 0 && int(p) < len(prefaultNames) {
		return prefaultNames[p]
	}
	return fmt.Sprintf("Prefault(%d)", int(p))
}

// MarshalText returns the policy's name.
func (p Prefault) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText accepts populate, touch and none.
func (p *Prefault) UnmarshalText(text []byte) error {
	for i, name := range prefaultNames {
		if string(text) == name {
			*p = Prefault(i)
			return nil
		}
	}
	return fmt.Errorf("iaa: prefault policy %q: want populate, touch or none", text)
}

// Huffman selects the tables that a session compresses with.
type Huffman int

// Huffman tables.
const (
	// HuffmanFixed uses the fixed tables of deflate: one job a page.
	HuffmanFixed Huffman = iota
	// HuffmanDynamic builds tables for each page. Version 2 devices do so in one job;
	// version 1 devices need two, and the driver builds the tables in between.
	HuffmanDynamic
)

var huffmanNames = []string{"fixed", "dynamic"}

// String returns the choice's name.
func (h Huffman) String() string {
	if h >= 0 && int(h) < len(huffmanNames) {
		return huffmanNames[h]
	}
	return fmt.Sprintf("Huffman(%d)", int(h))
}

// MarshalText returns the choice's name.
func (h Huffman) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText accepts fixed and dynamic.
func (h *Huffman) UnmarshalText(text []byte) error {
	for i, name := range huffmanNames {
		if string(text) == name {
			*h = Huffman(i)
			return nil
		}
	}
	return fmt.Errorf("iaa: Huffman tables %q: want fixed or dynamic", text)
}
