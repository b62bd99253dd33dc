//go:build !race

// In virtual time one goroutine runs at a time, so the race detector finds no more here than
// in the other tests.

package destination

import (
	"math"
	"testing"
)

// modelled models a destination with costs that edit changes, and with a share of zero pages of
// which half are written later.
func modelled(t *testing.T, mem Memory, zero float64, edit func(*Costs)) Result {
	t.Helper()
	costs := PublishedCosts()
	if edit != nil {
		edit(&costs)
	}
	r, err := Run(t.Context(), mem, Options{Packets: 6, Zero: &zero, Costs: &costs, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	if d := r.Causes.Sum() - 1; math.Abs(d) > 1e-6 {
		t.Errorf("%s: the causes add up to %v", mem, r.Causes.Sum())
	}
	return r
}

const thirds = 2. / 3

// TestRun_FactorComesFromFaultsAndFlushes compares the times of the destinations, for a guest
// without zero pages, as that of the published figures (factor 7), and with many.
func TestRun_FactorComesFromFaultsAndFlushes(t *testing.T) {
	for _, zero := range []float64{0, 1. / 3, thirds} {
		prealloc, fresh, scan := modelled(t, Prealloc, zero, nil), modelled(t, Fresh, zero, nil), modelled(t, Scan, zero, nil)
		toFresh, toScan := float64(fresh.Elapsed)/float64(prealloc.Elapsed), float64(scan.Elapsed)/float64(prealloc.Elapsed)
		t.Logf("%.2f of the pages zero: fresh takes %.1f times, scan %.1f times", zero, toFresh, toScan)
		if toScan < 5 || toScan > 10 {
			t.Errorf("%.2f of the pages zero: scan takes %.1f times as long as prealloc, want 5 to 10", zero, toScan)
		}
		if toFresh > toScan || zero > 0 && toFresh > 0.95*toScan {
			t.Errorf("%.2f of the pages zero: fresh takes %.1f times and scan %.1f", zero, toFresh, toScan)
		}
		free := func(c *Costs) { c.IOMMU.Request = nil }
		if without := modelled(t, Fresh, zero, free); float64(without.Elapsed) > 1.1*float64(prealloc.Elapsed) {
			t.Errorf("%.2f of the pages zero: fresh takes %v although page requests take no time, prealloc %v", zero, without.Elapsed, prealloc.Elapsed)
		}
	}
}

func TestRun_CountsFaultsAndFlushesOfEachPage(t *testing.T) {
	pages := 2 * 6 * packetPages
	data, later := pages/3, pages/3
	for mem, want := range map[Memory][3]int{
		Prealloc: {0, 0, 0},
		Fresh:    {data + later, 0, 0},
		Scan:     {data + later, 2 * pages / 3, later},
	} {
		r := modelled(t, mem, thirds, nil)
		if got := [3]int{r.DeviceFaults, r.CPUFaults, r.Flushes}; got != want {
			t.Errorf("%s: %v faults of devices, faults of the processor, flushes, want %v", mem, got, want)
		}
		if r.Data != data+later || r.Zero != 2*pages/3 {
			t.Errorf("%s: %d pages with data and %d zero pages arrived, want %d and %d", mem, r.Data, r.Zero, data+later, 2*pages/3)
		}
	}
}

// halves are the model's costs, with the cause that each of them is.
var halves = []struct {
	name   string
	halve  func(*Costs)
	cause  func(Causes) float64
	shown  Memory   // where the cost has a large share
	absent []Memory // where it has none
	hidden bool     // waiting for the devices replaces it
}{
	{"page requests", func(c *Costs) { c.IOMMU.Request = c.IOMMU.Request.Scale(0.5) },
		func(c Causes) float64 { return c.DeviceFaults }, Fresh, []Memory{Prealloc}, false},
	{"flushes", func(c *Costs) {
		c.IOMMU.FlushIOTLB, c.IOMMU.FlushDevice = c.IOMMU.FlushIOTLB.Scale(0.5), c.IOMMU.FlushDevice.Scale(0.5)
	}, func(c Causes) float64 { return c.Flush }, Scan, []Memory{Prealloc, Fresh}, false},
	{"faults of the processor", func(c *Costs) { c.Timing.Touch /= 2 },
		func(c Causes) float64 { return c.CPUFaults }, Scan, []Memory{Prealloc, Fresh}, false},
	{"scanning", func(c *Costs) { c.Scan /= 2 },
		func(c Causes) float64 { return c.Scan }, Scan, []Memory{Prealloc, Fresh}, false},
	{"receiving", func(c *Costs) { c.Receive /= 2 },
		func(c Causes) float64 { return c.Receive }, Prealloc, nil, false},
	{"submission", func(c *Costs) { c.Timing.Driver, c.Timing.Enqcmd = c.Timing.Driver/2, c.Timing.Enqcmd/2 },
		func(c Causes) float64 { return c.Submit }, Prealloc, nil, true},
}

// TestRun_HalvingACostHalvesItsPart halves each cost. The time of its cause has to become half,
// within a quarter. If the cause is a large one, the whole time has to become shorter by about
// as much. Destinations that do not have the cost take exactly as long as before.
func TestRun_HalvingACostHalvesItsPart(t *testing.T) {
	whole := map[Memory]Result{}
	for _, mem := range Memories() {
		whole[mem] = modelled(t, mem, thirds, nil)
	}
	for _, h := range halves {
		before, after := whole[h.shown], modelled(t, h.shown, thirds, h.halve)
		was, is := h.cause(before.Causes)*float64(before.Elapsed), h.cause(after.Causes)*float64(after.Elapsed)
		if was < 0.005*float64(before.Elapsed) {
			t.Errorf("%s: %.1f %% of %s", h.name, 100*h.cause(before.Causes), h.shown)
		}
		if r := is / was; r < 0.375 || r > 0.625 {
			t.Errorf("%s, %s: half the cost makes the part %.2f times as large", h.name, h.shown, r)
		}
		if saved := float64(before.Elapsed - after.Elapsed); !h.hidden && was > 0.1*float64(before.Elapsed) && (saved < 0.3*was || saved > 0.7*was) {
			t.Errorf("%s, %s: half the cost saves %.0f ns of %.0f", h.name, h.shown, saved, was)
		}
		for _, mem := range h.absent {
			if r := modelled(t, mem, thirds, h.halve); r.Elapsed != whole[mem].Elapsed {
				t.Errorf("%s: half the cost changes %s from %v to %v", h.name, mem, whole[mem].Elapsed, r.Elapsed)
			}
		}
	}
}

// TestRun_ComputingIsHiddenBehindSubmission makes engines and devices twice as fast. A channel
// submits while they work, so that it saves at least half of what it waits for them.
func TestRun_ComputingIsHiddenBehindSubmission(t *testing.T) {
	before := modelled(t, Prealloc, thirds, nil)
	after := modelled(t, Prealloc, thirds, func(c *Costs) {
		c.Timing.Operation, c.Timing.PerByte, c.Timing.DeviceRate = c.Timing.Operation/2, c.Timing.PerByte/2, 2*c.Timing.DeviceRate
	})
	was := before.Causes.Compute * float64(before.Elapsed)
	if saved := float64(before.Elapsed - after.Elapsed); saved < 0.4*was || saved > 1.05*was {
		t.Errorf("twice the speed saves %.0f ns of %.0f", saved, was)
	}
}

// TestRun_EnginesStallDuringFlushes makes flushes of the devices' TLBs longer.
func TestRun_EnginesStallDuringFlushes(t *testing.T) {
	stall := func(factor float64) float64 {
		r := modelled(t, Scan, thirds, func(c *Costs) { c.IOMMU.FlushDevice = c.IOMMU.FlushDevice.Scale(factor) })
		return r.Causes.Stall * float64(r.Elapsed)
	}
	once, twice := stall(1), stall(2)
	if none := stall(0); none != 0 || once <= 0 || twice < 1.5*once {
		t.Errorf("engines stall for %.0f ns with flushes that take no time, %.0f ns with flushes, %.0f ns with flushes of twice the time", none, once, twice)
	}
	if r := modelled(t, Fresh, thirds, nil); r.Causes.Stall != 0 {
		t.Errorf("engines stall for %v of the time without a flush", r.Causes.Stall)
	}
}

// TestRun_ZeroPagesCostOnlyTheScan compares guests with few and with many zero pages. None of
// them is written later.
func TestRun_ZeroPagesCostOnlyTheScan(t *testing.T) {
	never := 0.
	run := func(mem Memory, zero float64) Result {
		r, err := Run(t.Context(), mem, Options{Packets: 6, Zero: &zero, Later: &never})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	few, many := run(Scan, 0.25), run(Scan, 0.75)
	if few.CPUFaults != few.Zero || many.CPUFaults != many.Zero || many.CPUFaults != 3*few.CPUFaults || few.Data != 3*many.Data {
		t.Errorf("scan: %d and %d faults of the processor with %d and %d zero pages, %d and %d with data",
			few.CPUFaults, many.CPUFaults, few.Zero, many.Zero, few.Data, many.Data)
	}
	part := func(r Result) float64 { return r.Causes.CPUFaults + r.Causes.Scan }
	if part(many) < 3*part(few) {
		t.Errorf("scan: zero pages have %.1f %% of the time, and %.1f %% if there are three times as many", 100*part(few), 100*part(many))
	}
	for _, zero := range []float64{0.25, 0.75} {
		if r := run(Fresh, zero); r.CPUFaults != 0 || part(r) != 0 || r.Flushes != 0 {
			t.Errorf("fresh, %.2f of the pages zero: %+v", zero, r)
		}
	}
}

// TestRun_OneQueueServesAllDevices compares four IOMMUs with one.
func TestRun_OneQueueServesAllDevices(t *testing.T) {
	four, one := modelled(t, Fresh, 0, nil), modelled(t, Fresh, 0, func(c *Costs) { c.IOMMU.Units = 1 })
	if r := float64(one.Elapsed) / float64(four.Elapsed); r < 2 || r > 4.5 {
		t.Errorf("one queue of page requests takes %.1f times as long as four", r)
	}
}

func TestRun_EqualSeedsGiveEqualResults(t *testing.T) {
	if a, b := modelled(t, Scan, thirds, nil), modelled(t, Scan, thirds, nil); a != b {
		t.Errorf("results %+v and %+v", a, b)
	}
}
