package forecast

import "math"

// Range is an interval that holds a figure.
type Range struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

func exactly(v float64) Range { return Range{v, v} }

// z is the quantile of the normal distribution for intervals of 95 %.
const z = 1.96

// wilson returns the interval of a share that was found hits times in n samples. It needs no
// large n and no share in the middle.
func wilson(hits, n float64) Range {
	if n <= 0 {
		return Range{0, 1}
	}
	p := min(max(hits/n, 0), 1)
	middle := (p + z*z/(2*n)) / (1 + z*z/n)
	half := z / (1 + z*z/n) * math.Sqrt(p*(1-p)/n+z*z/(4*n*n))
	return Range{max(middle-half, 0), min(middle+half, 1)}
}

// meanOf returns the interval of the mean of values, of which there is at least one.
func meanOf(values []float64) Range {
	var sum, squares float64
	for _, v := range values {
		sum += v
	}
	n := float64(len(values))
	mean := sum / n
	for _, v := range values {
		squares += (v - mean) * (v - mean)
	}
	if n < 2 {
		return exactly(mean)
	}
	half := z * math.Sqrt(squares/(n-1)/n)
	return Range{max(mean-half, 0), mean + half}
}
