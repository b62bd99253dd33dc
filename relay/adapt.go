package relay

import (
	"time"

	"github.com/vmferry/vmferry/relay/linkwire"
)

// adapter chooses the level of a connection's frames. It knows what each level costs:
// the plain bytes a second that the processor makes of it, and the bytes on the link for
// a plain byte; and how many bytes a second the link takes. A connection is as fast as
// the slower one of the processor and the link. The adapter takes the fastest level, and
// of equal ones the cheapest.
//
// The link's rate is known only from moments in which the link was the limit. While it
// is not, the rate that is assumed rises, until the next level is tried.
//
// Not only the link makes a connection wait: the other relay can be short of processor
// time, which harder levels make worse. So a level that turns out slower than the one
// before is left, and avoided for a while.
type adapter struct {
	fixed bool
	level linkwire.Level
	link  float64 // bytes a second; 0 if the link was never the limit
	speed [levels]float64
	share [levels]float64

	before  linkwire.Level // the level before the last change
	rateOf  float64        // plain bytes a second then
	since   int            // windows since the change
	avoided [levels]avoidance

	window step // since the last decision, at began
	began  time.Time
}

const levels = int(linkwire.LevelZstdBetter) + 1

// step is what the encoder of a connection did: the bytes that it took and gave, and the
// time for which it waited for QEMU, worked, and waited for the link.
type step struct {
	plain, out         int
	input, work, write time.Duration
}

// decideAfter is the time after which a level is chosen again.
const decideAfter = 50 * time.Millisecond

func newAdapter(c Compression) *adapter {
	a := &adapter{
		// First guesses, of pages of a Linux guest on one processor.
		speed: [levels]float64{4e9, 500e6, 200e6, 60e6},
		share: [levels]float64{1, 0.42, 0.32, 0.29},
	}
	switch c {
	case None:
		a.fixed = true
	case QPL:
		a.fixed, a.level = true, linkwire.LevelDeflate
	case Zstd:
		a.fixed, a.level = true, linkwire.LevelZstd
	}
	return a
}

// observe takes a step that has ended at the time now.
func (a *adapter) observe(s step, now time.Time) {
	if a.fixed {
		return
	}
	w := &a.window
	if a.began.IsZero() {
		a.began = now.Add(-s.input - s.work - s.write)
	}
	w.plain, w.out = w.plain+s.plain, w.out+s.out
	w.input, w.work, w.write = w.input+s.input, w.work+s.work, w.write+s.write
	if passed := now.Sub(a.began); passed >= decideAfter && w.plain > 0 {
		a.decide(passed)
		a.window, a.began = step{}, now
	}
}

const (
	// linkIsLimit is the part of the time for which the link, or QEMU, has to be waited
	// for, to be the limit.
	linkIsLimit = 0.2
	// linkRises is by what the assumed rate of the link rises in a window in which the
	// link is not the limit.
	linkRises = 1.03
	// worthwhile is how much faster another level has to be.
	worthwhile = 1.1
	// newest is the weight of the last window in the averages.
	newest = 0.3
)

func (a *adapter) decide(passed time.Duration) {
	w := &a.window
	if w.work > 0 {
		mix(&a.speed[a.level], float64(w.plain)/w.work.Seconds())
	}
	before := a.share[a.level]
	mix(&a.share[a.level], float64(w.out)/float64(w.plain))
	if a.level > linkwire.LevelRaw {
		// The other levels meet the same pages.
		for l := linkwire.LevelDeflate; int(l) < levels; l++ {
			if l != a.level {
				a.share[l] *= a.share[a.level] / before
			}
		}
	}
	switch rate := float64(w.out) / passed.Seconds(); {
	case w.write.Seconds() > linkIsLimit*passed.Seconds():
		if a.link == 0 {
			a.link = rate
		}
		mix(&a.link, rate)
	case a.link > 0:
		a.link = max(a.link*linkRises, rate)
	}
	a.choose(passed, float64(w.plain)/passed.Seconds())
}

// waitsForQEMU reports whether QEMU was the limit in the window.
func (a *adapter) waitsForQEMU(passed time.Duration) bool {
	return a.window.input.Seconds() > linkIsLimit*passed.Seconds()
}

// avoidance keeps a level from being chosen for some windows.
type avoidance struct{ windows, next int }

const (
	// trial is the number of windows after which a change is judged.
	trial = 2
	// firstAvoidance and lastAvoidance bound the windows for which a level is avoided.
	firstAvoidance, lastAvoidance = 20, 160
)

// choose judges the last change and chooses the level. rate is the plain bytes a second
// of the window.
func (a *adapter) choose(passed time.Duration, rate float64) {
	for l := range a.avoided {
		a.avoided[l].windows = max(0, a.avoided[l].windows-1)
	}
	a.since++
	waits := a.waitsForQEMU(passed)
	if a.since == trial && a.level > a.before && rate < a.rateOf && !waits {
		v := &a.avoided[a.level]
		v.next = min(max(2*v.next, firstAvoidance), lastAvoidance)
		v.windows = v.next
		a.level, a.since = a.before, 2*trial // the change back is not judged
		return
	}
	if a.since < trial {
		return
	}
	if next := a.best(rate, waits); next != a.level {
		a.before, a.rateOf, a.since, a.level = a.level, rate, 0, next
	}
}

// best returns the level that gives the most plain bytes a second. If QEMU is the limit,
// that is the cheapest one that keeps up with QEMU. rate is the plain bytes a second of
// the window.
func (a *adapter) best(rate float64, waitsForQEMU bool) linkwire.Level {
	if a.link == 0 {
		return linkwire.LevelRaw
	}
	best := linkwire.LevelRaw
	for l := linkwire.LevelRaw; int(l) < levels; l++ {
		if a.avoided[l].windows > 0 {
			continue
		}
		if waitsForQEMU && a.rate(l) >= rate*worthwhile {
			return l
		}
		if a.rate(l) > a.rate(best)*1.02 {
			best = l
		}
	}
	if best != a.level && a.rate(best) < a.rate(a.level)*worthwhile {
		return a.level
	}
	return best
}

// rate is the plain bytes a second that a level would give.
func (a *adapter) rate(l linkwire.Level) float64 {
	return min(a.speed[l], a.link/max(a.share[l], 1e-6))
}

func mix(average *float64, value float64) { *average += newest * (value - *average) }
