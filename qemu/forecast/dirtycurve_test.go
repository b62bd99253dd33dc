package forecast

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// A working set of W bytes that is written at random at the rate r leaves
// W*(1-exp(-r*t/W)) bytes dirty. The curve of exact windows holds that everywhere.
func TestDirtyCurve_HoldsARandomlyWrittenWorkingSet(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 3))
		memory := 1e9 * (1 + r.Float64()*100)
		set := memory * math.Pow(10, -4*r.Float64())
		rate := set * math.Pow(10, 3*r.Float64()-2)
		truth := func(d time.Duration) float64 { return -set * math.Expm1(-rate*d.Seconds()/set) }
		var windows []Window
		for _, w := range [][]time.Duration{{100 * time.Millisecond, time.Second, 4 * time.Second}, {time.Second, 4 * time.Second}}[seed%2] {
			windows = append(windows, Window{w, Range{truth(w) * 0.98, truth(w) * 1.02}})
		}
		c := NewDirtyCurve(memory, windows...)
		last := 0.0
		for d := time.Millisecond; d < 1000*time.Second; d = d * 5 / 4 {
			low, high, is := c.Low(d), c.High(d), truth(d)
			if low > is*(1+1e-9) || high < is*(1-1e-9) {
				t.Fatalf("seed %d: after %v %.0f bytes are dirty, outside %.0f to %.0f", seed, d, is, low, high)
			}
			if high > memory || high < last {
				t.Fatalf("seed %d: after %v at most %v are dirty, after less %v; the memory is %v", seed, d, high, last, memory)
			}
			last = high
		}
	}
}

func TestDirtyCurve_WithoutWindowsNothingIsDirty(t *testing.T) {
	c := NewDirtyCurve(1e9)
	if c.Low(time.Hour) != 0 || c.High(time.Hour) != 0 {
		t.Errorf("%v to %v", c.Low(time.Hour), c.High(time.Hour))
	}
}

func TestSampledWindow_WidensWithFewSamples(t *testing.T) {
	const mib = 1 << 20
	many := SampledWindow(time.Second, 10*mib, mib, 256*mib, 4096)
	few := SampledWindow(time.Second, 10*mib, mib, 256*mib, 128)
	if many.Bytes.Low >= 10*mib || many.Bytes.High <= 11*mib || few.Bytes.Low >= many.Bytes.Low || few.Bytes.High <= many.Bytes.High {
		t.Errorf("%+v with many, %+v with few samples", many, few)
	}
	if idle := SampledWindow(time.Second, 0, mib, 256*mib, 4096); idle.Bytes.Low != 0 || idle.Bytes.High < mib {
		t.Errorf("a rate that was rounded down to 0: %+v", idle)
	}
	if all := SampledWindow(time.Second, 1e12, mib, 256*mib, 128); all.Bytes.High > 256*mib || all.Bytes.Low > all.Bytes.High {
		t.Errorf("more than the memory: %+v", all)
	}
}
