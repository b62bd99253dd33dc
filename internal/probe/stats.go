package probe

import (
	"math"
	"reflect"
	"slices"
	"time"
)

// Median returns the middle of values, or the mean of the two in the middle.
func Median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	n := len(values)
	if n == 0 {
		return math.NaN()
	}
	return (values[(n-1)/2] + values[n/2]) / 2
}

// MedianOf returns the median of one figure of several runs.
func MedianOf[T any](runs []T, figure func(T) float64) float64 {
	values := make([]float64, len(runs))
	for i, r := range runs {
		values[i] = figure(r)
	}
	return Median(values)
}

// Medians returns the median of each field. The fields of the struct T have the types
// float64, *float64 and map[string]float64. A pointer is nil in the result unless it is set
// in all runs. runs must not be empty.
func Medians[T any](runs []T) *T {
	result := new(T)
	to := reflect.ValueOf(result).Elem()
	for i := range to.NumField() {
		field := func(run T) any { return reflect.ValueOf(run).Field(i).Interface() }
		switch first := field(runs[0]).(type) {
		case float64:
			to.Field(i).SetFloat(MedianOf(runs, func(run T) float64 { return field(run).(float64) }))
		case *float64:
			if !slices.ContainsFunc(runs, func(run T) bool { return field(run).(*float64) == nil }) {
				m := MedianOf(runs, func(run T) float64 { return *field(run).(*float64) })
				to.Field(i).Set(reflect.ValueOf(&m))
			}
		case map[string]float64:
			if first == nil {
				continue
			}
			m := make(map[string]float64)
			for name := range first {
				m[name] = MedianOf(runs, func(run T) float64 { return field(run).(map[string]float64)[name] })
			}
			to.Field(i).Set(reflect.ValueOf(m))
		}
	}
	return result
}

// Fastest returns the shortest time of n calls of f. Other work on the machine can only make
// a call slower.
func Fastest(n int, f func()) time.Duration {
	best := time.Duration(math.MaxInt64)
	for range n {
		start := time.Now()
		f()
		best = min(best, time.Since(start))
	}
	return best
}

// MBps returns the rate of n bytes in a duration, in 10^6 bytes a second.
func MBps(n int, d time.Duration) float64 { return float64(n) / 1e6 / max(d.Seconds(), 1e-9) }
