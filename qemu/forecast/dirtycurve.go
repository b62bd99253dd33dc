package forecast

import (
	"math"
	"slices"
	"time"
)

// Window is a measured time and the bytes of the different pages that the machine wrote in
// that time.
type Window struct {
	Time  time.Duration `json:"time_ns"`
	Bytes Range         `json:"bytes"`
}

// SampledWindow returns the window of a measurement that looked at samples of the machine's
// pages and found a rate in whole units of bytes a second, rounded down.
func SampledWindow(t time.Duration, rate, unit, memory float64, samples int) Window {
	low, high := rate*t.Seconds(), (rate+unit)*t.Seconds()
	if memory <= 0 {
		return Window{t, exactly(0)}
	}
	n := float64(samples)
	return Window{t, Range{
		Low:  min(low, wilson(low/memory*n, n).Low*memory),
		High: min(max(high, wilson(high/memory*n, n).High*memory), memory),
	}}
}

// DirtyCurve bounds the bytes of the different pages that a machine writes in a time. The
// number grows with the time and slows down, because pages are written again. These two
// properties bound it everywhere by the windows that were measured.
type DirtyCurve struct {
	windows []Window
	memory  float64
}

// NewDirtyCurve makes the curve of a machine with that memory in bytes. A machine that
// writes nothing has no windows.
func NewDirtyCurve(memory float64, windows ...Window) DirtyCurve {
	windows = slices.Clone(windows)
	slices.SortFunc(windows, func(a, b Window) int { return int(a.Time - b.Time) })
	// The bytes grow with the time.
	for i := 1; i < len(windows); i++ {
		windows[i].Bytes.Low = max(windows[i].Bytes.Low, windows[i-1].Bytes.Low)
	}
	for i := len(windows) - 2; i >= 0; i-- {
		windows[i].Bytes.High = min(windows[i].Bytes.High, windows[i+1].Bytes.High)
	}
	return DirtyCurve{windows: windows, memory: memory}
}

// Low returns the least bytes that are dirty after a time: on the line between the
// measured points, and not fewer after the last one.
func (c DirtyCurve) Low(t time.Duration) float64 {
	before := Window{}
	for _, w := range c.windows {
		if t <= w.Time {
			return before.Bytes.Low + (w.Bytes.Low-before.Bytes.Low)*float64(t-before.Time)/float64(w.Time-before.Time)
		}
		before = w
	}
	return before.Bytes.Low
}

// High returns the most bytes that are dirty after a time: not more than after a longer
// one, and not more than in proportion to a shorter one.
func (c DirtyCurve) High(t time.Duration) float64 {
	most := c.memory
	if len(c.windows) == 0 || t <= 0 {
		return 0
	}
	for i, w := range c.windows {
		switch {
		case t <= w.Time:
			most = min(most, w.Bytes.High)
		case i == 0:
			most = min(most, w.Bytes.High*float64(t)/float64(w.Time))
		default:
			// Growth after w is no faster than it was on average before w.
			from := c.windows[i-1]
			slope := max(w.Bytes.High-from.Bytes.Low, 0) / float64(w.Time-from.Time)
			most = min(most, w.Bytes.High+slope*float64(t-w.Time), w.Bytes.High*float64(t)/float64(w.Time))
		}
	}
	return min(most, c.start()*t.Seconds())
}

// start bounds the rate at which the machine dirties pages at first, in bytes a second. Up to
// the shortest window the bytes follow W*(1-exp(-r*t/W)), where W is the working set and r
// the rate at which pages are written.
func (c DirtyCurve) start() float64 {
	first := c.windows[0]
	rate := first.Bytes.High / first.Time.Seconds()
	if len(c.windows) == 1 {
		return 2 * rate
	}
	// The more the curve has bent until the second window, the more it can have bent
	// before the first.
	last := c.windows[1]
	ratio := float64(last.Time) / float64(first.Time)
	grown := max(last.Bytes.Low/max(first.Bytes.High, 1), 1)
	return rate * bend(ratio, min(grown, ratio))
}

// bend returns x/(1-exp(-x)) for the x at which 1-exp(-x*ratio) is grown times 1-exp(-x):
// how much faster the curve starts than it is on average until the first window.
func bend(ratio, grown float64) float64 {
	low, high := 0.0, 20.0
	for range 60 {
		x := (low + high) / 2
		if math.Expm1(-x*ratio)/math.Expm1(-x) > grown {
			low = x
		} else {
			high = x
		}
	}
	return high / -math.Expm1(-high)
}
