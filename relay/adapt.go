package relay

import (
	"time"

	"github.com/vmferry/vmferry/relay/linkwire"
)

// adapter chooses the level of each frame of a connection. It knows what each level
// costs: the plain bytes a second that the processor makes of it, and the bytes on the
// link for a plain byte; and how many bytes a second the link takes. A connection is as
// fast as the slower one of the processor and the link. The adapter takes the fastest
// level, and of equal ones the cheapest. While the link has enough to write, it takes
// the next harder level for a frame, and if the link has nothing to write, the next
// cheaper one.
//
// The link's rate is known only from moments in which the link was the limit. While it
// is not, the rate that is assumed rises, until a cheaper level is tried.
type adapter struct {
	fixed bool
	level linkwire.Level // the fastest
	link  float64        // bytes a second; 0 if the link was never the limit
	speed [levels]float64
	share [levels]float64

	window window
}

const levels = int(linkwire.LevelZstdBetter) + 1

// step is what the encoder of a connection did for a frame: the bytes that it took and
// gave, and the time for which it waited for QEMU, worked, and waited for the link.
type step struct {
	level              linkwire.Level
	plain, out         int
	input, work, write time.Duration
}

// window sums the steps since the last decision, at began.
type window struct {
	began        time.Time
	input, write time.Duration
	by           [levels]struct {
		plain, out int
		work       time.Duration
	}
}

// sum returns the bytes of all levels.
func (w *window) sum() (plain, out int) {
	for _, l := range w.by {
		plain, out = plain+l.plain, out+l.out
	}
	return plain, out
}

// decideAfter is the time after which a level is chosen again.
const decideAfter = 50 * time.Millisecond

func newAdapter(c Compression) *adapter {
	a := &adapter{
		// A link that is not known may be slow: its buffers take a lot of raw pages.
		level: linkwire.LevelDeflate,
		// First guesses, of pages of a Linux guest on one processor.
		speed: [levels]float64{4e9, 500e6, 200e6, 60e6},
		share: [levels]float64{1, 0.42, 0.32, 0.29},
	}
	switch c {
	case None:
		a.fixed, a.level = true, linkwire.LevelRaw
	case QPL:
		a.fixed = true
	case Zstd:
		a.fixed, a.level = true, linkwire.LevelZstd
	}
	return a
}

// next returns the level of a frame of so many plain bytes, while backlog bytes wait to
// be written to the link.
func (a *adapter) next(plain, backlog int) linkwire.Level {
	if a.fixed || a.link == 0 {
		return a.level
	}
	up, down := a.level+1, a.level-1
	switch {
	case a.level > linkwire.LevelRaw && int(up) < levels && float64(plain)/a.speed[up] < float64(backlog)/a.link:
		return up
	case a.level > linkwire.LevelDeflate && backlog == 0 && a.speed[a.level] < a.link/a.share[a.level]:
		return down
	}
	return a.level
}

// observe takes a step that has ended at the time now.
func (a *adapter) observe(s step, now time.Time) {
	if a.fixed {
		return
	}
	w := &a.window
	if w.began.IsZero() {
		w.began = now.Add(-s.input - s.work - s.write)
	}
	by := &w.by[s.level]
	by.plain, by.out, by.work = by.plain+s.plain, by.out+s.out, by.work+s.work
	w.input, w.write = w.input+s.input, w.write+s.write
	if passed := now.Sub(w.began); passed >= decideAfter {
		a.decide(passed)
		a.window = window{began: now}
	}
}

const (
	// linkIsLimit is the part of the time for which the link has to be waited for, to
	// be the limit.
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
	a.learn()
	w := &a.window
	_, out := w.sum()
	switch rate := float64(out) / passed.Seconds(); {
	case w.write.Seconds() > linkIsLimit*passed.Seconds():
		if a.link == 0 || rate < a.link {
			a.link = rate // a level that is too cheap is left at once
		}
		mix(&a.link, rate)
	case a.link > 0:
		a.link = max(a.link*linkRises, rate)
	}
	a.level = a.best(passed)
}

// learn takes the speeds and shares of the levels that were used. The others meet the
// same pages, so their shares change alike.
func (a *adapter) learn() {
	change, used := 1.0, 0
	for l, by := range a.window.by {
		if by.plain == 0 {
			continue
		}
		if by.work > 0 {
			mix(&a.speed[l], float64(by.plain)/by.work.Seconds())
		}
		before := a.share[l]
		mix(&a.share[l], max(float64(by.out)/float64(by.plain), leastShare))
		if l > int(linkwire.LevelRaw) {
			change, used = change*a.share[l]/before, used+1
		}
	}
	if used != 1 {
		return // several were measured
	}
	for l := linkwire.LevelDeflate; int(l) < levels; l++ {
		if a.window.by[l].plain == 0 {
			a.share[l] *= change
		}
	}
}

// leastShare bounds the shares, which divide.
const leastShare = 1e-4

// best returns the level that gives the most plain bytes a second. If QEMU is the limit,
// that is the cheapest one that keeps up with QEMU.
func (a *adapter) best(passed time.Duration) linkwire.Level {
	if a.link == 0 {
		return linkwire.LevelRaw
	}
	w := &a.window
	plain, _ := w.sum()
	waitsForQEMU := w.input.Seconds() > linkIsLimit*passed.Seconds()
	best := linkwire.LevelRaw
	for l := linkwire.LevelRaw; int(l) < levels; l++ {
		if waitsForQEMU && a.rate(l) >= float64(plain)/passed.Seconds()*worthwhile {
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
	return min(a.speed[l], a.link/a.share[l])
}

func mix(average *float64, value float64) { *average += newest * (value - *average) }
