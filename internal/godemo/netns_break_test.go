//go:build netns

package godemo

import (
	"testing"
	"time"
)

func TestALinkThatBreaksHarmsNoMachine(t *testing.T) {
	o := runTrials(t, func(x *trial) (string, []string) {
		x.aim(
			moment{"ready", 300 * time.Millisecond},
			moment{"ready", 900 * time.Millisecond},
			moment{"round", 15 * time.Millisecond},
			moment{"round", 60 * time.Millisecond},
			moment{"paused", 50 * time.Millisecond},
			moment{"arrived", 500 * time.Microsecond},
			moment{"starting", 20 * time.Millisecond},
		)
		x.cfg.StartTakes = 20 * time.Millisecond
		end, back := x.rng.IntN(2), x.rng.IntN(3) == 0
		outage := 50*time.Millisecond + x.within(3*time.Second)
		var repair *time.Timer
		x.hit = func() {
			x.wire.down(end)
			if back {
				repair = time.AfterFunc(outage, x.wire.up)
			}
		}
		s, problems := x.run()
		if repair != nil {
			repair.Stop() // the next trial's link is another's affair
		}
		problems = append(problems, x.check(s)...)
		if s.source == nil || s.destination == nil {
			return "", append(problems, "a side did not say how it ended")
		}
		if s.source.Runs && s.running != nil {
			problems = append(problems, "the source runs, and the destination ran")
		}
		if s.source.Undecided && back && outage < x.cfg.LinkTimeout {
			problems = append(problems, "the link was back before anybody noticed, and the source is undecided")
		}
		// An idle link is found dead after twice the time.
		problems = append(problems, x.inTime("source", 2*x.cfg.LinkTimeout+x.cfg.Inquiry)...)
		problems = append(problems, x.inTime("destination", 2*x.cfg.LinkTimeout+answer(x.cfg))...)
		what := ", and the link stayed down: "
		if back {
			what = ", and the link came back: "
		}
		return x.phase + what + ended(s), problems
	})
	if o != nil {
		o.wantAtLeast(t, map[string]int{
			inFirstRound: 5, inRounds: 3, inStandstill: 10, "stayed down": 20, "came back": 5,
			"source goes on": 8, "stood still and goes on": 3, "gave the machine away": 1,
		})
	}
}
