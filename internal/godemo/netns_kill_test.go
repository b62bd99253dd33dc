//go:build netns

package godemo

import (
	"testing"
	"time"
)

func TestADestinationThatIsKilledLosesNoMachine(t *testing.T) {
	o := runTrials(t, func(x *trial) (string, []string) {
		x.cfg.StartTakes = x.within(20*time.Millisecond) * time.Duration(x.rng.IntN(2))
		x.aim(
			moment{"ready", 900 * time.Millisecond},
			moment{"round", 15 * time.Millisecond},
			moment{"round", 60 * time.Millisecond},
			moment{"paused", 50 * time.Millisecond},
			moment{"last round", 20 * time.Millisecond},
			moment{"arrived", 500 * time.Microsecond},
			moment{"arrived", x.cfg.StartTakes + time.Millisecond},
			moment{"running", 200 * time.Microsecond},
		)
		x.hit = func() { x.kill("destination") }
		s, problems := x.run()
		problems = append(problems, x.check(s)...)
		switch {
		case s.source == nil:
			problems = append(problems, "the source did not say how it ended")
		case s.source.Undecided:
			problems = append(problems, "the destination is dead, which can be seen, and the source is undecided: "+s.source.Error)
		}
		// It sees the end of its connections, and then nobody listens.
		problems = append(problems, x.inTime("source", 0)...)
		return x.phase + ": " + ended(s), problems
	})
	if o != nil {
		o.wantAtLeast(t, map[string]int{inFirstRound: 3, inRounds: 3, inStandstill: 10, "had let it run": 2, "stood still and goes on": 5, "gave the machine away": 1})
	}
}

func TestASourceThatIsKilledLeavesNoHalfMachine(t *testing.T) {
	o := runTrials(t, func(x *trial) (string, []string) {
		// Nobody is left to ask: the destination need not answer for long.
		x.cfg.Inquiry = 250 * time.Millisecond
		x.cfg.StartTakes = x.within(20*time.Millisecond) * time.Duration(x.rng.IntN(2))
		if x.rng.IntN(3) == 0 { // what it said still arrives when it is dead
			x.delay = 20 * time.Millisecond
			x.cfg.Downtime += 8 * x.delay
		}
		x.aim(
			moment{"ready", 900 * time.Millisecond},
			moment{"round", 15 * time.Millisecond},
			moment{"round", 60 * time.Millisecond},
			moment{"paused", 50 * time.Millisecond},
			moment{"last round", 20 * time.Millisecond},
			moment{"arrived", 500*time.Microsecond + 2*x.delay},
			moment{"arrived", x.cfg.StartTakes + time.Millisecond + 2*x.delay},
			moment{"running", 200*time.Microsecond + x.delay},
		)
		x.hit = func() { x.kill("source") }
		s, problems := x.run()
		problems = append(problems, x.check(s)...)
		if s.destination == nil {
			problems = append(problems, "the destination did not say how it ended")
		}
		problems = append(problems, x.inTime("destination", x.cfg.ConnectTimeout+answer(x.cfg))...)
		return x.phase + ": " + ended(s), problems
	})
	if o != nil {
		o.wantAtLeast(t, map[string]int{inFirstRound: 3, inRounds: 3, inStandstill: 10, inHandedOver: 1, "destination does not run": 10, "the source is dead, the destination runs": 5})
	}
}
