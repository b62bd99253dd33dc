package destination

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/iaamodel"
)

// Memory is the state of the destination's memory, and what the destination does when a zero
// page arrives. Its values are a contract with users of the command.
type Memory string

// States of memory.
const (
	Prealloc Memory = "prealloc" // all pages are present and writable; zero pages are left alone
	Fresh    Memory = "fresh"    // no page is present; the received bitmap leaves zero pages alone
	Scan     Memory = "scan"     // no page is present; zero pages are read, as earlier versions of QEMU do
)

// Memories returns all states, the fastest first.
func Memories() []Memory { return []Memory{Prealloc, Fresh, Scan} }

// Costs are the costs of the model.
type Costs struct {
	Timing iaamodel.Timing
	IOMMU  iaamodel.IOMMU
	// Receive is the processor's time for a byte of the stream that it reads from a socket,
	// in ns.
	Receive float64
	// Scan is the processor's time for a byte of a page that it checks for zero, in ns.
	Scan float64
}

// PublishedCosts returns the costs that the command uses.
//
// Receive is derived from the figures that were published with QEMU's patches: "none, 4
// channels" moves 84,832 Mb/s for 5.901 s with 283 % of a processor, which is 0.27 ns a byte.
// Driver is what this driver takes a job on a device that needs no time ("Figures with fixed
// costs" in docs/notes/iaa.md). Scan is an assumption: a page that maps the zero page is in the
// cache.
func PublishedCosts() Costs {
	c := Costs{Timing: iaamodel.PublishedTiming, IOMMU: iaamodel.PublishedIOMMU, Receive: 0.27, Scan: 0.03}
	c.Timing.Driver = 175 * time.Nanosecond
	return c
}

// Options describe a destination. Zero fields have defaults.
type Options struct {
	// Channels is the number of channels, Devices that of accelerators: 2 and 4 by default,
	// as in the published figures.
	Channels, Devices int
	// Packets is the number of packets of 128 pages that each channel receives in the first
	// round; the default is 16.
	Packets int
	// Zero is the share of pages that are zero in the first round, Later that of those which
	// arrive with data in the second round. Nil means 1/3 and 1/2: of six pages four have
	// data, one is zero, and one is zero first and written later.
	Zero, Later *float64
	// Costs are PublishedCosts by default.
	Costs *Costs
	Seed  uint64
}

func (o Options) withDefaults() (Options, error) {
	o.Channels, o.Devices, o.Packets = cmp.Or(o.Channels, 2), cmp.Or(o.Devices, 4), cmp.Or(o.Packets, 16)
	if o.Zero == nil {
		o.Zero = new(float64)
		*o.Zero = 1. / 3
	}
	if o.Later == nil {
		o.Later = new(float64)
		*o.Later = 1. / 2
	}
	if o.Costs == nil {
		c := PublishedCosts()
		o.Costs = &c
	}
	for _, n := range []int{o.Channels, o.Devices, o.Packets} {
		if n < 1 || n > 256 {
			return o, fmt.Errorf("destination: %d channels, devices or packets: want 1 to 256", n)
		}
	}
	if !(*o.Zero >= 0 && *o.Zero < 1 && *o.Later >= 0 && *o.Later <= 1) {
		return o, fmt.Errorf("destination: shares %v and %v of pages: want 0 to 1, and less than 1 that are zero", *o.Zero, *o.Later)
	}
	return o, nil
}

// Compare models destinations and compares their times with that of preallocated memory. It
// calls progress, if that is not nil, before each run.
func Compare(ctx context.Context, memories []Memory, o Options, progress func(Memory)) ([]Result, error) {
	var all []Result
	var base time.Duration
	for _, mem := range append([]Memory{Prealloc}, memories...) {
		if progress != nil {
			progress(mem)
		}
		r, err := Run(ctx, mem, o)
		if err != nil {
			return nil, err
		}
		if base == 0 {
			base = r.Elapsed
			continue
		}
		r.Times = float64(r.Elapsed) / float64(base)
		all = append(all, r)
	}
	return all, nil
}

// Run models a destination.
func Run(ctx context.Context, mem Memory, o Options) (_ Result, err error) {
	if o, err = o.withDefaults(); err != nil {
		return Result{}, err
	}
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	dir, err := os.MkdirTemp("", "vmferry-iaa")
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	clock := iaamodel.NewClock()
	cfg := iaamodel.Uniform(o.Devices, func(d *iaamodel.Device) { d.Queues[0].BlockOnFault = true })
	cfg.Clock, cfg.Seed, cfg.Timing, cfg.IOMMU = clock, o.Seed, &o.Costs.Timing, &o.Costs.IOMMU
	machine, err := iaamodel.New(dir, cfg)
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, machine.Close()) }()
	dev, err := iaa.Open(ctx, machine.Options())
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	d := &model{Options: o, memory: mem, clock: clock, machine: machine, dev: dev}
	result, err := d.run(ctx)
	for _, v := range machine.Violations() {
		err = errors.Join(err, errors.New(v))
	}
	return result, err
}
