//go:build !race

// In virtual time one goroutine runs at a time, so the race detector finds no more here than
// in the other tests. It would take minutes.

package main

import (
	"testing"
	"time"

	"github.com/vmferry/vmferry/iaa/iaamodel"
	iaaprobe "github.com/vmferry/vmferry/internal/probe/iaa"
	"github.com/vmferry/vmferry/internal/soak"
)

// fixed makes a probe with fixed costs, so that its runs in virtual time are repeatable.
func fixed(t *testing.T, cpu time.Duration, packets int, timing iaamodel.Timing) *iaaprobe.Probe {
	t.Helper()
	cfg := iaaprobe.Config{Codec: iaaprobe.NewSoftwareCodec, Packets: packets, Costs: iaaprobe.Costs{Compress: cpu, Inflate: cpu / 2, Driver: 150 * time.Nanosecond}}
	p, _, err := newModel(t.Context(), cfg, timing, 1)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func measure(t *testing.T, p *iaaprobe.Probe, row iaaprobe.Row) iaaprobe.Row {
	t.Helper()
	row.Memory = iaaprobe.Present
	if err := p.Measure(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	return p.Rows[len(p.Rows)-1]
}

// TestModel_Goals checks that the driver keeps the modelled engines 90 % busy, and that hybrid
// mode reaches the rate of the hardware plus 80 % of the rate of the processor alone, with
// a fast and a slow codec.
func TestModel_Goals(t *testing.T) {
	type goal struct {
		cpu     time.Duration
		packets int // the slower the codec, the more its last page counts in a short run
		devices []int
	}
	goals := []goal{{10 * time.Microsecond, 5, []int{1}}}
	if soak.Long {
		goals = []goal{{10 * time.Microsecond, 20, []int{1, 2, 4}}, {60 * time.Microsecond, 64, []int{4}}}
	}
	for _, c := range goals {
		p := fixed(t, c.cpu, c.packets, iaamodel.PublishedTiming)
		for _, dir := range []iaaprobe.Direction{iaaprobe.Compress, iaaprobe.Inflate} {
			measure(t, p, iaaprobe.Row{Direction: dir, Mode: iaaprobe.CPUOnly})
			for _, n := range c.devices {
				for _, mode := range []iaaprobe.Mode{iaaprobe.HardwareOnly, iaaprobe.Hybrid} {
					if row := measure(t, p, iaaprobe.Row{Direction: dir, Mode: mode, Devices: n}); row.Busy < 0.9 {
						t.Errorf("codec %v, %s, %s, %d devices: engines busy %.0f %%, want 90 %%", c.cpu, dir, mode, n, 100*row.Busy)
					}
				}
				if g := p.Gain(dir, n); g < 0.8 {
					t.Errorf("codec %v, %s, %d devices: hybrid adds %.0f %% of the processor's rate, want 80 %%", c.cpu, dir, n, 100*g)
				}
			}
		}
	}
}

// TestModel_EnginesWithoutTheDeviceLimit checks that the driver keeps engines busy that take
// three times as many jobs, because the rate of their device is not limited.
func TestModel_EnginesWithoutTheDeviceLimit(t *testing.T) {
	timing := iaamodel.PublishedTiming
	timing.DeviceRate = 0
	p := fixed(t, 10*time.Microsecond, soak.Times(4, 64), timing)
	for _, mode := range []iaaprobe.Mode{iaaprobe.HardwareOnly, iaaprobe.Hybrid} {
		if row := measure(t, p, iaaprobe.Row{Direction: iaaprobe.Compress, Mode: mode, Devices: 2}); row.Busy < 0.9 {
			t.Errorf("%s: engines busy %.0f %%, want 90 %%", row.Mode, 100*row.Busy)
		}
	}
}
