//go:build !race

// In virtual time one goroutine runs at a time, so the race detector has nothing
// to find here that it does not find in the other tests, and takes minutes.

package iaabench

import (
	"testing"
	"time"

	"github.com/vmferry/vmferry/iaa/iaamodel"
	"github.com/vmferry/vmferry/internal/soak"
)

// fixedCosts makes runs in virtual time repeatable: nothing is measured here.
func fixedCosts(cpu time.Duration) Config {
	return Config{Codec: newCodec, Seed: 1, CPUCompress: cpu, CPUInflate: cpu / 2, Driver: 150 * time.Nanosecond}
}

// TestGoals: the driver keeps the modelled engines 90 % busy, and hybrid reaches
// the hardware and 80 % of what the processor does alone, with a fast codec and
// with a slow one.
func TestGoals(t *testing.T) {
	type goal struct {
		cpu     time.Duration
		packets int // the slower the codec, the more its last page counts in a short run
		devices []int
	}
	goals := []goal{{10 * time.Microsecond, 10, []int{1}}}
	if soak.Long {
		goals = []goal{{10 * time.Microsecond, 20, []int{1, 2, 4}}, {60 * time.Microsecond, 64, []int{4}}}
	}
	for _, c := range goals {
		cpu, devices := c.cpu, c.devices
		cfg := fixedCosts(cpu)
		cfg.Packets = c.packets
		cfg, err := cfg.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		b := &bench{cfg: cfg}
		if err := b.prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		run := func(row Row) Row {
			t.Helper()
			if err := b.measure(t.Context(), row); err != nil {
				t.Fatal(err)
			}
			return b.report.Rows[len(b.report.Rows)-1]
		}
		for _, dir := range []Direction{Compress, Inflate} {
			run(Row{Direction: dir, Mode: CPUOnly, Memory: Present})
			for _, n := range devices {
				for _, mode := range []Mode{HardwareOnly, Hybrid} {
					if row := run(Row{Direction: dir, Mode: mode, Devices: n, Memory: Present}); row.Busy < 0.9 {
						t.Errorf("codec %v, %s, %s, %d devices: engines busy %.0f %%, want 90 %%", cpu, dir, mode, n, 100*row.Busy)
					}
				}
				if g := b.report.Gain(dir, n); g < 0.8 {
					t.Errorf("codec %v, %s, %d devices: hybrid adds %.0f %% of the processor's rate, want 80 %%", cpu, dir, n, 100*g)
				}
			}
		}
	}
}

// TestEnginesWithoutTheDeviceLimit: were a device's rate not limited, its engines
// would take three times as many jobs, and the driver would still keep up.
func TestEnginesWithoutTheDeviceLimit(t *testing.T) {
	cfg := fixedCosts(10 * time.Microsecond)
	timing := iaamodel.PublishedTiming
	timing.DeviceRate = 0
	cfg.Timing = &timing
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{cfg: cfg}
	if err := b.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []Mode{HardwareOnly, Hybrid} {
		if err := b.measure(t.Context(), Row{Direction: Compress, Mode: mode, Devices: 2, Memory: Present}); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range b.report.Rows {
		if row.Busy < 0.9 {
			t.Errorf("%s: engines busy %.0f %%, want 90 %%", row.Mode, 100*row.Busy)
		}
	}
}
