package live_test

import (
	"errors"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/machine"
	"github.com/vmferry/vmferry/live"
	"github.com/vmferry/vmferry/multifd"
)

func TestMigrate_DivergingMachineStaysOrStops(t *testing.T) {
	t.Parallel()
	// Two writers dirty nearly all of 512 pages in each round, for which the link
	// takes a quarter of a second.
	config := machine.Config{Memory: 4 << 20, Writers: 2, WorkingSet: 0.5, Seed: 7}
	const bandwidth = 8 << 20
	diverge := func(t *testing.T) *pair {
		p := newPairOf(t, config, "unix", 1, multifd.None)
		p.pace(func() int { return 1000 }, true)
		p.cfg.Bandwidth = bandwidth
		p.cfg.Downtime = 20 * time.Millisecond
		p.cfg.Throttle = nil
		return p
	}
	t.Run("gives up", func(t *testing.T) {
		t.Parallel()
		p := diverge(t)
		out, source, destination := p.run(t.Context(), p.dial)
		if !errors.Is(source, live.ErrDiverging) || destination == nil {
			t.Fatalf("source: %v; destination: %v", source, destination)
		}
		if out.Downtime != 0 || p.resumed.Load() != 0 {
			t.Errorf("it was paused for %v", out.Downtime)
		}
		p.checkStayed()
	})
	t.Run("stops anyway", func(t *testing.T) {
		t.Parallel()
		p := diverge(t)
		p.cfg.Diverging = live.StopAnyway
		out, source, destination := p.run(t.Context(), p.dial)
		if source != nil || destination != nil {
			t.Fatal(source, destination)
		}
		p.checkMoved(out)
	})
	t.Run("is throttled until it converges", func(t *testing.T) {
		t.Parallel()
		p := diverge(t)
		shares := []float64{0}
		p.pace(func() int { return int(300 * (1 - shares[len(shares)-1])) }, true)
		p.cfg.Throttle = func(share float64) {
			shares = append(shares, share)
			p.source.Throttle(share)
		}
		p.cfg.Bandwidth = 4 << 20
		// At first some 350 pages are dirty in a round, in the end 30.
		p.cfg.Downtime = 250 * time.Millisecond
		out, source, destination := p.run(t.Context(), p.dial)
		if source != nil || destination != nil {
			t.Fatal(source, destination)
		}
		p.checkMoved(out)
		t.Logf("throttled by %v in %d rounds", shares, len(out.Rounds))
		if len(shares) == 1 {
			t.Error("it was not throttled")
		}
		for i := 1; i < len(shares); i++ {
			if shares[i] <= shares[i-1] || shares[i] > 0.99 {
				t.Errorf("throttled by %v", shares)
			}
		}
	})
	t.Run("is unthrottled when it gives up", func(t *testing.T) {
		t.Parallel()
		p := diverge(t)
		last := -1.0
		p.cfg.Throttle = func(share float64) { last = share } // and does nothing
		p.cfg.MaxRounds = 6
		_, source, _ := p.run(t.Context(), p.dial)
		if !errors.Is(source, live.ErrDiverging) {
			t.Fatal(source)
		}
		if last != 0 {
			t.Errorf("the last throttle is %v", last)
		}
		p.checkStayed()
	})
}
