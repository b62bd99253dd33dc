//go:build netns

package godemo

import (
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/slowlink"
)

func TestMigrate_BrokenLinkLeavesOneMachine(t *testing.T) {
	o := runTrials(t, func(x *trial) (string, []string) {
		x.chooseMoment(
			moment{"ready", 300 * time.Millisecond},
			moment{"ready", 900 * time.Millisecond},
			moment{"round", 15 * time.Millisecond},
			moment{"round", 60 * time.Millisecond},
			moment{"paused", 50 * time.Millisecond},
			moment{"arrived", 500 * time.Microsecond},
			moment{"starting", 20 * time.Millisecond},
		)
		x.cfg.StartTakes = 20 * time.Millisecond
		end, back := slowlink.End(x.rng.IntN(2)), x.rng.IntN(3) == 0
		outage := 50*time.Millisecond + x.randomDuration(3*time.Second)
		var repair *time.Timer
		x.fault = func() {
			x.link.SetDown(end)
			if back {
				repair = time.AfterFunc(outage, x.link.SetUp)
			}
		}
		s, problems := x.run()
		if repair != nil {
			repair.Stop() // the next trial uses the same link
		}
		problems = append(problems, x.check(s)...)
		if s.source == nil || s.destination == nil {
			return "", append(problems, "a side did not report its end")
		}
		if s.source.Runs && s.running != nil {
			problems = append(problems, "the source runs, and the destination ran")
		}
		if s.source.Undecided && back && outage < x.cfg.LinkTimeout {
			problems = append(problems, "the link was down for less than LinkTimeout, and the source is undecided")
		}
		// A side notices a dead idle link after twice LinkTimeout.
		problems = append(problems, x.checkEnd("source", 2*x.cfg.LinkTimeout+x.cfg.Inquiry)...)
		problems = append(problems, x.checkEnd("destination", 2*x.cfg.LinkTimeout+answerTimeout(x.cfg))...)
		what := ", and the link stayed down: "
		if back {
			what = ", and the link came back: "
		}
		return x.phase + what + describeEnds(s), problems
	})
	if o != nil {
		o.requireCounts(t, map[string]int{
			inFirstRound: 5, inLaterRounds: 3, whilePaused: 10, "stayed down": 20, "came back": 5,
			"the source runs": 8, "the source paused and runs again": 3, "handed the machine over": 1,
		})
	}
}
