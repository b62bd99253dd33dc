package qemu

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/vmferry/vmferry/internal/sleep"
	"github.com/vmferry/vmferry/qemu/forecast"
	"github.com/vmferry/vmferry/qmp"
)

// sampledRAM is the memory of a machine, and where its main memory is.
type sampledRAM struct {
	ranges []qmp.PhysicalRAM
	// total is the size of all RAM blocks, sampled that of the ranges, in bytes.
	total, sampled uint64
}

// lowMemory is the end of the addresses where firmware switches between RAM, ROM and
// devices while the machine starts.
const lowMemory = 1 << 20

// Bounds of what QEMU says of a machine's memory.
const (
	maxMemory = 1 << 50
	maxRanges = 4096
)

// findRAM finds the machine's main memory: the largest RAM block, and those of memory
// backends. RAM of devices can move in the address space at any time, and in its place a
// register can be: that memory is not read.
func findRAM(ctx context.Context, vm *qmp.Machine) (r sampledRAM, err error) {
	list, err := vm.QueryPhysicalRAM(ctx)
	if err != nil {
		return r, fmt.Errorf("finding the machine's memory: %w", err)
	}
	main, err := mainBlocks(ctx, vm, list)
	if err != nil {
		return r, err
	}
	if len(list) > maxRanges {
		return r, fmt.Errorf("%w: its monitor lists %d ranges of RAM, more than %d", ErrUnable, len(list), maxRanges)
	}
	for _, m := range list {
		start := max(m.Start, lowMemory)
		start += -start % forecast.PageSize
		end := (m.Start + m.Size) &^ (forecast.PageSize - 1)
		if !main[m.Block] || end <= start || end-start > maxMemory {
			continue
		}
		m.Size, m.Offset, m.Start = end-start, m.Offset+start-m.Start, start
		if !r.has(m) {
			r.ranges = append(r.ranges, m)
			r.sampled += m.Size
		}
	}
	if r.sampled == 0 || r.sampled > maxMemory {
		return r, fmt.Errorf("%w: its monitor lists no main memory above 1 MiB (info mtree -f)", ErrUnable)
	}
	blocks, err := vm.QueryRAMBlocks(ctx)
	if err != nil && !refusedByQEMU(err) {
		return r, err
	}
	for _, b := range blocks {
		if b.Used <= maxMemory-r.total {
			r.total += b.Used
		}
	}
	r.total = max(r.total, r.sampled)
	return r, nil
}

// mainBlocks names the RAM blocks of main memory.
func mainBlocks(ctx context.Context, vm *qmp.Machine, list []qmp.PhysicalRAM) (map[string]bool, error) {
	main, sizes, largest := make(map[string]bool), make(map[string]uint64), ""
	for _, m := range list {
		if m.Size > maxMemory {
			continue
		}
		sizes[m.Block] += m.Size
		if sizes[m.Block] > sizes[largest] {
			largest = m.Block
		}
	}
	main[largest] = true
	backends, err := vm.QueryMemdev(ctx)
	if err != nil && !refusedByQEMU(err) {
		return nil, err
	}
	for _, b := range backends {
		main[b.ID], main["/objects/"+b.ID] = true, true
	}
	delete(main, "")
	return main, nil
}

// has tells whether a range is the same memory as an earlier one, at another address.
func (r *sampledRAM) has(m qmp.PhysicalRAM) bool {
	for _, is := range r.ranges {
		if is.Block == m.Block && is.Offset < m.Offset+m.Size && m.Offset < is.Offset+is.Size {
			return true
		}
	}
	return false
}

// choose returns the addresses of n pages, one at random in each nth part of the memory.
func (r *sampledRAM) choose(n int) []uint64 {
	pages := r.sampled / forecast.PageSize
	n = int(min(uint64(n), pages))
	list := make([]uint64, 0, n)
	for i := range uint64(n) {
		from, to := part(pages, i, n), part(pages, i+1, n)
		list = append(list, r.address(from+rand.Uint64N(to-from)))
	}
	return list
}

// part returns pages*i/n without overflow.
func part(pages, i uint64, n int) uint64 {
	return pages/uint64(n)*i + pages%uint64(n)*i/uint64(n)
}

// address returns the address of a page by its number among all.
func (r *sampledRAM) address(page uint64) uint64 {
	offset := page * forecast.PageSize
	for _, m := range r.ranges {
		if offset < m.Size {
			return m.Start + offset
		}
		offset -= m.Size
	}
	return r.ranges[0].Start // not reached
}

// lookTime bounds one look at the sampled pages.
const lookTime = 20 * time.Second

// look reads pages one by one, and waits after each for as long as QEMU took, so that the
// machine gets at its devices meanwhile. It returns the pages that it had time for.
func (f *forecaster) look(ctx context.Context, pages []uint64) ([]uint64, error) {
	began := time.Now()
	content := make([]byte, forecast.PageSize)
	// If the time ends, the pages that were read lie anywhere in the memory.
	pages = append([]uint64(nil), pages...)
	rand.Shuffle(len(pages), func(i, j int) { pages[i], pages[j] = pages[j], pages[i] })
	for i, addr := range pages {
		if i > 0 && time.Since(began) > lookTime {
			return pages[:i], nil
		}
		start := time.Now()
		if err := f.vm.DumpPhysical(ctx, addr, content); err != nil {
			return nil, fmt.Errorf("reading a page of the machine: %w", err)
		}
		took := time.Since(start)
		f.result.Reading.add(took)
		f.sample.Add(addr, content)
		if err := sleep.For(ctx, min(took, lookTime)); err != nil {
			return nil, err
		}
	}
	return pages, nil
}

func (r *ReadingStatistic) add(took time.Duration) {
	r.Calls++
	r.Total += took
	r.Longest = max(r.Longest, took)
}

// Numbers of pages that QEMU's page sampling hashes.
const (
	leastPerGiB, mostPerGiB = 128, 16384 // QEMU's bounds, for each GiB
	hashedPages             = 65536      // wanted in all
)

// rateUnit is the unit of QEMU's dirty rate in bytes a second.
const rateUnit = 1 << 20

// dirtyWindows measures the dirty rate over several times.
func (f *forecaster) dirtyWindows(ctx context.Context) ([]forecast.Window, error) {
	if f.opts.Mode != qmp.PageSampling {
		kvm, err := f.vm.QueryKVM(ctx)
		if err != nil {
			return nil, err
		}
		if !kvm {
			return nil, fmt.Errorf("%w: measuring the dirty rate by %s needs KVM (use %s)", ErrUnable, f.opts.Mode, qmp.PageSampling)
		}
	}
	times := []time.Duration{time.Second, f.opts.Measure}
	if f.vm.MeasuresMilliseconds() {
		times = []time.Duration{f.opts.Measure / 40, f.opts.Measure * 3 / 40, f.opts.Measure / 4, f.opts.Measure}
	}
	var windows []forecast.Window
	for _, t := range times {
		w, err := f.dirtyWindow(ctx, t.Truncate(time.Millisecond))
		if err != nil {
			return nil, fmt.Errorf("measuring the dirty rate over %v: %w", t, err)
		}
		windows = append(windows, w)
	}
	return windows, nil
}

// dirtyWindow measures the dirty rate over one time.
func (f *forecaster) dirtyWindow(ctx context.Context, t time.Duration) (w forecast.Window, err error) {
	if !f.vm.MeasuresMilliseconds() {
		t = t.Truncate(time.Second)
	}
	request := qmp.DirtyRateRequest{Time: t}
	memory := float64(f.ram.total)
	if f.opts.Mode == qmp.PageSampling {
		request.SamplePages = int(min(max(hashedPages*(1<<30)/memory, leastPerGiB), mostPerGiB))
	} else {
		request.Mode = f.opts.Mode
	}
	if err := f.vm.CalcDirtyRate(ctx, request); err != nil {
		if refusedByQEMU(err) && strings.Contains(err.Error(), "in progress") {
			return w, fmt.Errorf("%w: another measurement is under way: %w (wait for its end)", ErrState, err)
		}
		if refusedByQEMU(err) {
			return w, errors.Join(ErrUnable, err)
		}
		return w, err
	}
	rate, err := f.awaitDirtyRate(ctx, t)
	if err != nil {
		return w, err
	}
	if f.opts.Mode == qmp.PageSampling {
		return forecast.SampledWindow(t, rate, rateUnit, memory, int(float64(request.SamplePages)*memory/(1<<30))), nil
	}
	return forecast.Window{Time: t, Bytes: forecast.Range{Low: min(rate*t.Seconds(), memory), High: min((rate+rateUnit)*t.Seconds(), memory)}}, nil
}

const (
	// dirtyRatePoll is the time between two looks at a measurement.
	dirtyRatePoll = 20 * time.Millisecond
	// dirtyRateSlack is how much longer than asked a measurement may take.
	dirtyRateSlack = time.Minute
)

// awaitDirtyRate returns the measured rate in bytes a second.
func (f *forecaster) awaitDirtyRate(ctx context.Context, t time.Duration) (float64, error) {
	for began := time.Now(); ; {
		r, err := f.vm.QueryDirtyRate(ctx)
		if err != nil {
			return 0, err
		}
		// After the start the status is "unstarted" for a moment.
		if r.Status == qmp.DirtyRateMeasured && r.Rate != nil {
			if *r.Rate < 0 || *r.Rate > maxMemory/rateUnit {
				return 0, fmt.Errorf("QEMU reports a rate of %d MiB/s", *r.Rate)
			}
			return float64(*r.Rate) * rateUnit, nil
		}
		if time.Since(began) > t+dirtyRateSlack {
			return 0, fmt.Errorf("QEMU has no result after %v (its status is %q)", time.Since(began).Round(time.Second), r.Status)
		}
		if err := sleep.For(ctx, dirtyRatePoll); err != nil {
			return 0, err
		}
	}
}
