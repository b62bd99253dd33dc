package qemu

import (
	"slices"
	"testing"
	"time"
)

func TestDowntimeSteps(t *testing.T) {
	const ms = time.Millisecond
	type round struct {
		number, remaining uint64
		after             time.Duration // since the round before
	}
	growing := func(n int, after time.Duration) (rounds []round) {
		for i := range n {
			rounds = append(rounds, round{uint64(i + 1), 1000, after})
		}
		return rounds
	}
	for _, tt := range []struct {
		name      string
		most      time.Duration
		maxRounds int
		rounds    []round
		want      []time.Duration // the limits, the first one included
	}{
		{"a lower limit of the user's stays", 4 * ms, 30, growing(40, time.Second), []time.Duration{4 * ms}},
		{"rounds that halve the rest", 300 * ms, 30, []round{{1, 1000, 0}, {2, 800, time.Second}, {3, 400, time.Second}, {4, 200, time.Second}}, []time.Duration{10 * ms}},
		{"rounds that do not, up to the user's limit", 300 * ms, 30, growing(9, time.Second), []time.Duration{10 * ms, 20 * ms, 40 * ms, 80 * ms, 160 * ms, 300 * ms}},
		{"one of them", 300 * ms, 30, []round{{1, 1000, 0}, {2, 800, time.Second}, {3, 401, time.Second}, {4, 200, time.Second}}, []time.Duration{10 * ms, 20 * ms}},
		{"short rounds", 300 * ms, 30, growing(10, 40*ms), []time.Duration{10 * ms, 20 * ms, 40 * ms, 80 * ms}},
		{"the same round again", 300 * ms, 30, []round{{1, 9, 0}, {2, 9, time.Second}, {3, 9, time.Second}, {3, 9, time.Second}}, []time.Duration{10 * ms, 20 * ms}},
		{"half of all rounds", 300 * ms, 8, growing(8, time.Microsecond), []time.Duration{10 * ms, 20 * ms, 300 * ms}},
		{"no rounds to spare", 300 * ms, 1, growing(3, time.Second), []time.Duration{300 * ms}},
	} {
		d := newDowntimeSteps(tt.most, tt.maxRounds)
		got, now := []time.Duration{d.limit}, time.Now()
		for _, r := range tt.rounds {
			now = now.Add(r.after)
			if d.observe(r.number, r.remaining, now) {
				got = append(got, d.limit)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: limits %v, want %v", tt.name, got, tt.want)
		}
	}
}
