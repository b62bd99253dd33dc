package probe

import (
	"math"
	"testing"
	"time"
)

type figures struct {
	Value   float64
	Counted *float64
	Rows    map[string]float64
}

func TestMedian_IsTheMiddleOrBetweenTheTwo(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{[]float64{9, 1, 3}, 3}, {[]float64{4, 1, 2, 9}, 3}, {[]float64{4, 1}, 2.5}} {
		first := c.values[0]
		if got := Median(c.values); got != c.want || c.values[0] != first {
			t.Errorf("%v: median %v, want %v; first value was %v", c.values, got, c.want, first)
		}
	}
	if got := Median(nil); !math.IsNaN(got) {
		t.Errorf("the median of nothing is %v", got)
	}
}

func TestMedians_AreOfEachFigure(t *testing.T) {
	got := Medians([]figures{
		{1, new(1.0), map[string]float64{"a": 5}},
		{5, new(9.0), map[string]float64{"a": 1}},
		{3, new(4.0), map[string]float64{"a": 3}},
	})
	if got.Value != 3 || *got.Counted != 4 || got.Rows["a"] != 3 {
		t.Errorf("%+v", got)
	}
	if got = Medians([]figures{{Counted: new(1.0)}, {}, {Counted: new(1.0)}}); got.Counted != nil || got.Rows != nil {
		t.Errorf("%+v from runs without all figures", got)
	}
}

func TestFastest_IsTheShortestTime(t *testing.T) {
	calls := 0
	got := Fastest(3, func() {
		if calls++; calls != 2 {
			time.Sleep(30 * time.Millisecond)
		}
	})
	if calls != 3 || got >= 30*time.Millisecond {
		t.Errorf("%d calls, fastest %v", calls, got)
	}
}
