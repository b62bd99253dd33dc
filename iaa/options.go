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

// Options says which devices to use and how. The zero value uses every usable
// queue of the host.
type Options struct {
	// SysfsRoot and DevRoot are where devices and their nodes are found.
	SysfsRoot, DevRoot string
	// Nodes are the NUMA nodes of the memory to be worked on. Queues of devices
	// on other nodes take a job only when those of these nodes are full. Empty
	// means that all queues are equal.
	Nodes []int
	// Filter, if set, is asked about every usable queue; those it answers false
	// for are left alone.
	Filter func(QueueInfo) bool
	// Retries is how often a submission that found every queue full is tried
	// again before it fails with ErrQueueFull. 0 means DefaultRetries, a
	// negative number none.
	Retries int
	// FaultRetries is how often a job is submitted again after page faults
	// before it fails with ErrFaults. 0 means DefaultFaultRetries.
	FaultRetries int
	// JobTimeout is how long a job may take, resubmissions included, before it
	// fails with ErrTimeout. 0 means DefaultJobTimeout.
	JobTimeout time.Duration
	// DrainTimeout bounds Session.Drain and Session.Close, which wait for what
	// devices still have. 0 means DefaultDrainTimeout.
	DrainTimeout time.Duration
	// NoBlockOnFault keeps the driver from letting a device wait for page
	// faults on queues that allow it.
	NoBlockOnFault bool
	// Logger gets rare events: queues left out, queues given up. Nil discards.
	Logger *slog.Logger
	// System is the machine; nil is the host.
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

// Prefault says how the buffers of a session become present before a device
// first uses them. A device that meets a page which is not costs a page fault.
type Prefault int

// Prefault policies.
const (
	// PrefaultPopulate has the kernel fault everything in while mapping.
	PrefaultPopulate Prefault = iota
	// PrefaultTouch writes to every page after mapping.
	PrefaultTouch
	// PrefaultNone leaves buffers to the first use, to measure what that costs.
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

// Huffman chooses the tables a session compresses with.
type Huffman int

// Huffman tables.
const (
	// HuffmanFixed uses the fixed tables of deflate: one job a page.
	HuffmanFixed Huffman = iota
	// HuffmanDynamic fits the tables to each page. Version 2 devices do it in
	// one job; version 1 devices take two, with the tables built in between.
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
