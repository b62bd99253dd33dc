package live_test

import (
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/iaa/iaamodel"
	"github.com/vmferry/vmferry/internal/machine"
	"github.com/vmferry/vmferry/internal/soak"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/pagecodec"
)

// Pages change under the device while it works on them: whatever it makes of
// one has to inflate, and the page comes again.
func TestMigrate_AcceleratorMovesARunningMachine(t *testing.T) {
	for name, level := range map[string]int{"fixed codes": 1, "dynamic codes": multifd.LevelDense} {
		for _, cpu := range []float64{0, 0.5} {
			t.Run(name, func(t *testing.T) {
				cfg := iaamodel.Uniform(2, nil)
				cfg.Mapped = true
				m, err := iaamodel.New(t.TempDir(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				acc := pagecodec.NewAccelerator(pagecodec.Options{Policy: pagecodec.Require, CPU: cpu, Device: m.Options()})
				defer acc.Close()
				p := newPairOf(t, machine.Config{Memory: uint64(soak.Times(8, 24)) << 20, Writers: 2, Rate: testRate, Seed: 7}, "unix", 2, multifd.QPL)
				p.cfg.Level = level
				p.cfg.Accelerator, p.recv.Accelerator = acc, acc
				p.recv.Sink.(*guestmem.Memory).Map = func(b *guest.Block) ([]byte, error) { return m.Guest(int(b.Length), true) }
				out, source, destination := p.run(t.Context(), p.dial)
				if source != nil || destination != nil {
					t.Fatal(source, destination)
				}
				p.checkMoved(out)
				if stats, ok := acc.Stats(); !ok || stats.Pages.Hardware == 0 {
					t.Errorf("the device did nothing: %+v", stats)
				}
				if v := m.Violations(); len(v) > 0 {
					t.Errorf("the driver did wrong: %v", v)
				}
			})
		}
	}
}
