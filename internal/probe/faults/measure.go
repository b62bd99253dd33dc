package faults

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/probe"
)

// written is the byte that the guest writes later.
const written = 1

// bench has the state that all cells share.
type bench struct {
	layout *guest.Layout
	pages  *pages
	groups []group
	dec    *deflate.Decoder
	tlb    *tlb
}

func newBench(memory uint64) (*bench, error) {
	layout, err := guest.NewLayout(pageSize, []guest.Block{{Name: "pc.ram", Length: memory}})
	if err != nil {
		return nil, err
	}
	b := &bench{layout: layout, groups: groups(memory), dec: deflate.NewDecoder()}
	if len(b.groups) == 0 {
		return nil, fmt.Errorf("faults: %d bytes of memory are too few", memory)
	}
	b.pages, err = newPages(int(layout.Pages(layout.Blocks[0]) / 3))
	return b, err
}

// intake is a measurement in progress: the memory, and the lane that fills it.
type intake struct {
	*bench
	block *guest.Block
	lane  guest.Lane
	mem   []byte
	data  int // number of data pages that arrived
}

// measure measures the cell once. The caller must have locked its thread.
func (b *bench) measure(c Cell) (f Figures, err error) {
	faultsBefore, err := faults(unix.RUSAGE_SELF) // threads of its own preallocate
	if err != nil {
		return f, err
	}
	start := time.Now()
	m, unmap, err := c.Memory.memory(b.layout)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, unmap()) }()
	lane, err := c.lane(m)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, lane.Close()) }()
	f.SetupMS = ms(time.Since(start))
	faultsAfter, err := faults(unix.RUSAGE_SELF)
	if err != nil {
		return f, err
	}
	block := b.layout.Blocks[0]
	f.SetupFaults = perThousand(faultsAfter-faultsBefore, int(b.layout.Pages(block)))
	in := &intake{bench: b, block: block, lane: lane, mem: m.Bytes(block)}
	if err := in.run(&f); err != nil {
		return f, err
	}
	return f, b.pages.check(in.mem, b.groups)
}

// lane opens a lane into m with the policy and the path of the cell.
func (c Cell) lane(m *guestmem.Memory) (guest.Lane, error) {
	var sink guest.Sink = m
	if c.Path == Bounce {
		sink = guestmem.Bounced(m)
	}
	if c.Policy == ScanZeros {
		sink = scanning{sink, m}
	}
	return sink.Lane()
}

// run measures the arrival of all pages, and then the guest's writes.
func (in *intake) run(f *Figures) error {
	by := newBystander()
	defer by.stop()
	if err := in.tlb.start(); err != nil {
		return err
	}
	start := time.Now()
	data, zero, later, err := in.arrive()
	if err != nil {
		return err
	}
	middle := time.Now()
	atWrite, err := in.write()
	if err != nil {
		return err
	}
	end := time.Now()
	if err := in.tlb.stop(f); err != nil {
		return err
	}
	f.ArrivalMS, f.WriteMS = ms(middle.Sub(start)), ms(end.Sub(middle))
	f.MBps = probe.MBps(len(in.mem), end.Sub(start))
	third := in.data // each kind has the same number of pages
	f.DataFaults, f.ZeroFaults = perThousand(data, third), perThousand(zero, third)
	f.LaterArrivalFaults, f.LaterWriteFaults = perThousand(later, third), perThousand(atWrite, third)
	return nil
}

// arrive fills the memory and returns the faults of each kind of page. The measured time
// includes two system calls for each 128 pages, which count the faults.
func (in *intake) arrive() (data, zero, later int64, err error) {
	for _, g := range in.groups {
		for _, step := range []struct {
			total *int64
			take  func() error
		}{
			{&data, func() error { return in.packet(g.data) }},
			{&zero, func() error { return in.lane.Zero(in.block, g.zero) }},
			{&later, func() error { return in.lane.Zero(in.block, g.later) }},
		} {
			if err := countFaults(step.total, step.take); err != nil {
				return 0, 0, 0, err
			}
		}
	}
	return data, zero, later, nil
}

// packet inflates the next data pages to the offsets.
func (in *intake) packet(offsets []uint64) error {
	to, err := in.lane.Pages(in.block, offsets)
	if err != nil {
		return err
	}
	for _, page := range to {
		if err := inflate(in.dec, page, in.pages.carried(in.data)); err != nil {
			return fmt.Errorf("faults: data page %d: %w", in.data, err)
		}
		in.data++
	}
	return in.lane.Commit()
}

// write writes a byte to each page of the last third, as the guest does.
func (in *intake) write() (atWrite int64, err error) {
	err = countFaults(&atWrite, func() error {
		for _, g := range in.groups {
			for _, off := range g.later {
				in.mem[off] = written
			}
		}
		return nil
	})
	return atWrite, err
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func perThousand(n int64, pages int) float64 { return 1000 * float64(n) / float64(pages) }
