package iaamodel

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/vmferry/vmferry/iaa"
)

func TestClock_ActorsTakeTurnsInVirtualTime(t *testing.T) {
	c := NewClock()
	var log []string
	actor := func(name string, step time.Duration) {
		c.Go(func() {
			for range 3 {
				c.Sleep(step)
				log = append(log, fmt.Sprint(name, c.Now()))
			}
		})
	}
	actor("a", 3*time.Second)
	actor("b", 2*time.Second)
	c.after(5*time.Second, func() { log = append(log, "event") })
	c.Run()
	want := []string{"b2s", "a3s", "b4s", "event", "a6s", "b6s", "a9s"}
	if !slices.Equal(log, want) || c.Now() != 9*time.Second {
		t.Errorf("at %v: %v, want %v", c.Now(), log, want)
	}
}

// simulate runs n inflate jobs through one device in virtual time and returns
// the order of their completion and the time it took.
func simulate(t *testing.T, seed uint64, n int, edit func(*Timing)) (order []int, took time.Duration, s Stats) {
	t.Helper()
	clock := NewClock()
	timing := PublishedTiming
	edit(&timing)
	cfg := Uniform(1, nil)
	cfg.Clock, cfg.Seed, cfg.Timing = clock, seed, &timing
	b := newBench(t, cfg)
	_, size := b.stream()
	big, err := b.m.Map((n+1)*pageSize, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.m.Unmap(big); err != nil {
			t.Error(err)
		}
	}()
	start := clock.Now()
	recs := make([]*iaa.Record, n)
	for i := range recs {
		d, rec := b.inflateDesc(size)
		d.Dst = addressOf(big[i*pageSize:])
		recs[i] = rec
		b.submit(d)
	}
	for len(order) < n {
		b.m.Relax(nil, 0, 0)
		for i, r := range recs {
			if r.Load().Status == iaa.StatusSuccess && !slices.Contains(order, i) {
				order = append(order, i)
			}
		}
	}
	return order, clock.Now() - start, b.m.Stats()
}

func TestClock_PublishedTimings(t *testing.T) {
	exact := func(tm *Timing) { tm.Jitter, tm.Enqcmd, tm.Poll, tm.DeviceRate = 0, 0, 0, 0 }
	job := 1200*time.Nanosecond + 2007*time.Nanosecond
	_, took, _ := simulate(t, 1, 1, exact)
	if d := took - job; d < -2 || d > 2 {
		t.Errorf("one job takes %v, want %v", took, job)
	}
	_, took, s := simulate(t, 1, 40, exact)
	if d := took - 5*job; d < -10 || d > 10 {
		t.Errorf("40 jobs on 8 engines take %v, want %v", took, 5*job)
	}
	if d := s.Busy - 40*job; d < -80 || d > 80 {
		t.Errorf("engines busy for %v, want %v", s.Busy, 40*job)
	}
	_, took, _ = simulate(t, 1, 40, func(tm *Timing) { tm.Jitter, tm.Enqcmd, tm.Poll = 0, 0, 0 })
	if rate := 40 * pageSize / took.Seconds(); rate > 3.01e9 || rate < 2.7e9 {
		t.Errorf("device delivers %.2e bytes/s, want up to 3e9", rate)
	}
}

func TestClock_SimulationIsSeededAndOutOfOrder(t *testing.T) {
	keep := func(*Timing) {}
	a, tookA, _ := simulate(t, 1, 40, keep)
	b, tookB, _ := simulate(t, 1, 40, keep)
	c, _, _ := simulate(t, 2, 40, keep)
	if !slices.Equal(a, b) || tookA != tookB {
		t.Errorf("same seed, different runs: %v in %v, %v in %v", a, tookA, b, tookB)
	}
	if slices.Equal(a, c) {
		t.Error("different seeds, same order")
	}
	if slices.IsSorted(a) {
		t.Error("jobs completed in order")
	}
}
