package chart

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// axis maps values to positions in the picture.
type axis struct {
	from, to   float64 // values, or their logarithms on a logarithmic axis
	start, end float64 // positions
	log        bool
	ticks      []float64
}

// at returns the position of v.
func (a *axis) at(v float64) float64 {
	if a.log {
		v = math.Log10(v)
	}
	return a.start + (v-a.from)/(a.to-a.from)*(a.end-a.start)
}

// linear returns an axis from start to end that includes low and high, begins and ends at a
// tick, and has about count ticks.
func linear(low, high, start, end float64, count int) *axis {
	if high <= low {
		high = low + 1
	}
	step := niceStep((high - low) / float64(count))
	a := &axis{from: math.Floor(low/step) * step, start: start, end: end}
	// Each tick is a multiple of the step: a sum of steps would add up rounding errors.
	for i := 0; ; i++ {
		v := a.from + float64(i)*step
		a.ticks = append(a.ticks, v)
		if v >= high-step*1e-9 {
			a.to = v
			return a
		}
	}
}

// niceStep returns the smallest of 1, 2 or 5 times a power of ten that is at least v.
func niceStep(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= v*(1-1e-9) {
			return m * power
		}
	}
	return 10 * power
}

// fewValues is the largest number of values for which each value is a tick.
const fewValues = 9

// logarithmic returns a logarithmic axis for the values, which must be above 0. If there are
// few values, each one is a tick.
func logarithmic(values []float64, start, end float64) *axis {
	values = slices.Compact(slices.Sorted(slices.Values(values)))
	low, high := values[0], values[len(values)-1]
	if low == high {
		low, high = low/2, high*2
	}
	a := &axis{from: math.Log10(low), to: math.Log10(high), start: start, end: end, log: true}
	if len(values) <= fewValues {
		a.ticks = values
		return a
	}
	steps := []float64{1, 2, 5}
	if a.to-a.from > 3 {
		steps = steps[:1]
	}
	for p := math.Floor(a.from); p <= a.to; p++ {
		for _, m := range steps {
			if v := m * math.Pow(10, p); v >= low*(1-1e-9) && v <= high*(1+1e-9) {
				a.ticks = append(a.ticks, v)
			}
		}
	}
	return a
}

// number formats v for readers, such as 12,500 and 0.25. It omits digits that make no visible
// difference in a picture.
func number(v float64) string {
	if v == 0 {
		return "0"
	}
	digits := 0
	for scale := math.Abs(v); scale < 100 && digits < 6; scale *= 10 {
		digits++
	}
	s := strconv.FormatFloat(v, 'f', digits, 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	whole, rest, point := strings.Cut(s, ".")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	for at := len(whole) - 3; at > 0; at -= 3 {
		whole = whole[:at] + "," + whole[at:]
	}
	if point {
		whole += "." + rest
	}
	return sign + whole
}
