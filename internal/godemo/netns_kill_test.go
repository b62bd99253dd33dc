//go:build netns

package godemo

import (
	"testing"
	"time"
)

// chooseKillMoment chooses when to kill a side. An event arrives later over a delayed link.
func (x *trial) chooseKillMoment() {
	x.chooseMoment(
		moment{"ready", 900 * time.Millisecond},
		moment{"round", 15 * time.Millisecond},
		moment{"round", 60 * time.Millisecond},
		moment{"paused", 50 * time.Millisecond},
		moment{"last round", 20 * time.Millisecond},
		moment{"arrived", 500*time.Microsecond + 2*x.delay},
		moment{"arrived", x.cfg.StartTakes + time.Millisecond + 2*x.delay},
		moment{"running", 200*time.Microsecond + x.delay},
	)
}

func TestMigrate_KilledDestinationLeavesTheSourceItsMachine(t *testing.T) {
	o := runTrials(t, func(x *trial) (string, []string) {
		x.cfg.StartTakes = x.randomDuration(20*time.Millisecond) * time.Duration(x.rng.IntN(2))
		x.chooseKillMoment()
		x.fault = func() { x.kill("destination") }
		s, problems := x.run()
		problems = append(problems, x.check(s)...)
		switch {
		case s.source == nil:
			problems = append(problems, "the source did not report its end")
		case s.source.Undecided:
			problems = append(problems, "the destination is dead, which the source can detect, and the source is undecided: "+s.source.Error)
		}
		// The source sees the end of its connections, and new connections are refused.
		problems = append(problems, x.checkEnd("source", 0)...)
		return x.phase + ": " + describeEnds(s), problems
	})
	if o != nil {
		o.requireCounts(t, map[string]int{inFirstRound: 3, inLaterRounds: 3, whilePaused: 10, "after the handover": 2, "the source paused and runs again": 5, "handed the machine over": 1})
	}
}

func TestMigrate_KilledSourceLeavesNoPartialMachine(t *testing.T) {
	o := runTrials(t, func(x *trial) (string, []string) {
		// No source is left to ask, so the destination need not answer for long.
		x.cfg.Inquiry = 250 * time.Millisecond
		x.cfg.StartTakes = x.randomDuration(20*time.Millisecond) * time.Duration(x.rng.IntN(2))
		if x.rng.IntN(3) == 0 { // data on the way still arrives after the source is dead
			x.delay = 20 * time.Millisecond
			x.cfg.Downtime += 8 * x.delay
		}
		x.chooseKillMoment()
		x.fault = func() { x.kill("source") }
		s, problems := x.run()
		problems = append(problems, x.check(s)...)
		if s.destination == nil {
			problems = append(problems, "the destination did not report its end")
		}
		problems = append(problems, x.checkEnd("destination", x.cfg.ConnectTimeout+answerTimeout(x.cfg))...)
		return x.phase + ": " + describeEnds(s), problems
	})
	if o != nil {
		o.requireCounts(t, map[string]int{inFirstRound: 3, inLaterRounds: 3, whilePaused: 10, afterHandover: 1, "destination does not run": 10, "the source is dead, the destination runs": 5})
	}
}
