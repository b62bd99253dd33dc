package forecast

import (
	"math/rand/v2"
	"testing"
	"time"
)

// randomMachine makes a machine whose measurements follow a working set that is written at
// random.
func randomMachine(r *rand.Rand) Machine {
	memory := float64(uint64(256<<20) << r.IntN(8))
	rate := memory * r.Float64() / 20
	part := rate + float64(1<<20)
	windows := []Window{}
	for _, t := range []time.Duration{100 * time.Millisecond, time.Second, 4 * time.Second} {
		dirty := min(rate*t.Seconds(), part)
		windows = append(windows, Window{t, Range{dirty * 0.9, dirty * 1.1}})
	}
	nonZero := memory * r.Float64()
	return Machine{Memory: memory, NonZero: Range{nonZero * 0.95, nonZero}, Dirty: NewDirtyCurve(memory, windows...)}
}

func randomMethod(r *rand.Rand) Method {
	share, speed := 0.05+r.Float64(), 0.0
	if r.IntN(2) == 0 {
		speed = 1e9 * r.Float64()
	}
	return Method{First: Range{share * 0.9, share}, Again: Range{share * 0.5, share * 1.2}, Speed: Range{speed * 0.7, speed}}
}

func randomLink(r *rand.Rand) Link {
	return Link{Bandwidth: 1e6 * float64(1+r.IntN(3000)), DowntimeLimit: time.Duration(1+r.IntN(2000)) * time.Millisecond, MaxRounds: 1 + r.IntN(40), Processors: 0.5 + r.Float64()*4}
}

// order ranks verdicts by how good they are.
var order = map[Verdict]int{Diverges: 0, Uncertain: 1, Converges: 2}

// checkNotLater fails unless a ends no later than b in both cases.
func checkNotLater(t *testing.T, what string, a, b Prediction) {
	t.Helper()
	const rounding = 1 + 1e-9
	switch {
	case order[a.Converges] < order[b.Converges]:
		t.Errorf("%s: converges %q, before %q", what, a.Converges, b.Converges)
	case b.Converges != Diverges && a.Total.Low > b.Total.Low*rounding:
		t.Errorf("%s: takes at least %v s, before %v", what, a.Total.Low, b.Total.Low)
	case b.Converges == Converges && *a.Total.High > *b.Total.High*rounding:
		t.Errorf("%s: takes at most %v s, before %v", what, *a.Total.High, *b.Total.High)
	}
}

func TestPredict_MoreOfTheLinkNeverTakesLonger(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		m, method, link := randomMachine(r), randomMethod(r), randomLink(r)
		before := Predict(m, method, link)

		faster := link
		faster.Bandwidth *= 1 + r.Float64()*3
		checkNotLater(t, "more bandwidth", Predict(m, method, faster), before)

		more := link
		more.Processors *= 1 + r.Float64()*3
		checkNotLater(t, "more processors", Predict(m, method, more), before)

		better := method
		better.First.Low, better.First.High = method.First.Low*0.8, method.First.High*0.8
		better.Again.Low, better.Again.High = method.Again.Low*0.8, method.Again.High*0.8
		checkNotLater(t, "better compression", Predict(m, better, link), before)

		idle := m
		idle.Dirty = NewDirtyCurve(m.Memory)
		checkNotLater(t, "an idle machine", Predict(idle, method, link), before)
		if t.Failed() {
			t.Fatalf("seed %d: %+v, %+v, %+v", seed, m, method, link)
		}
	}
}

func TestPredict_RangesAreInOrder(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 2))
		m, method, link := randomMachine(r), randomMethod(r), randomLink(r)
		p := Predict(m, method, link)
		if (p.Converges == Diverges) != (p.Total == nil) || (p.Total == nil) != (p.Downtime == nil) || (p.Total == nil) != (p.LinkBytes == nil) {
			t.Fatalf("seed %d: %+v", seed, p)
		}
		if p.Total == nil {
			continue
		}
		for name, s := range map[string]*Span{"total": p.Total, "downtime": p.Downtime, "bytes": p.LinkBytes} {
			if s.Low < 0 || (s.High == nil) != (p.Converges == Uncertain) || s.High != nil && *s.High < s.Low {
				t.Errorf("seed %d: %s %+v with the verdict %s", seed, name, s, p.Converges)
			}
		}
	}
}

func TestPredict_IdleMachineTakesOneRound(t *testing.T) {
	m := Machine{Memory: 4e9, NonZero: exactly(1e9), Dirty: NewDirtyCurve(4e9)}
	p := Predict(m, Method{Name: "none", First: exactly(1), Again: exactly(1)}, Link{Bandwidth: 1e8, DowntimeLimit: 300 * time.Millisecond, MaxRounds: 30, Processors: 1})
	if p.Converges != Converges || p.Rounds != 1 || p.LinkBytes.Low != 1e9 {
		t.Fatalf("%+v", p)
	}
	if p.Total.Low != 10 || *p.Total.High < 10 || *p.Total.High > 13 {
		t.Errorf("10 s of pages take %v to %v s", p.Total.Low, *p.Total.High)
	}
}

func TestPredict_DirtyRateAboveTheLinkDiverges(t *testing.T) {
	second := Window{time.Second, exactly(200e6)}
	m := Machine{Memory: 4e9, NonZero: exactly(4e9), Dirty: NewDirtyCurve(4e9, second, Window{4 * time.Second, exactly(800e6)})}
	raw := Method{Name: "none", First: exactly(1), Again: exactly(1)}
	link := Link{Bandwidth: 100e6, DowntimeLimit: 300 * time.Millisecond, MaxRounds: 30, Processors: 1}
	if p := Predict(m, raw, link); p.Converges == Converges || p.Total != nil && p.Total.High != nil {
		t.Errorf("200 MB/s of writes over 100 MB/s: %+v", p)
	}
	// At a fifth of the size the pages fit, if the processor keeps up.
	small := Method{Name: "qpl", First: exactly(0.2), Again: exactly(0.2), Speed: exactly(1e9)}
	if p := Predict(m, small, link); p.Converges != Converges {
		t.Errorf("40 MB/s of compressed writes over 100 MB/s: %+v", p)
	}
	small.Speed = exactly(150e6)
	if p := Predict(m, small, link); p.Converges == Converges {
		t.Errorf("200 MB/s of writes, of which the processor compresses 150 MB/s: %+v", p)
	}
}

func TestBest_ConvergenceCountsBeforeTime(t *testing.T) {
	span := func(low, high float64) *Span { return &Span{Low: low, High: &high} }
	list := []Prediction{
		{Method: "none", Converges: Diverges},
		{Method: "fast or never", Converges: Uncertain, Total: &Span{Low: 1}},
		{Method: "slow", Converges: Converges, Total: span(10, 20)},
		{Method: "quick", Converges: Converges, Total: span(5, 20)},
	}
	for n, want := range map[int]string{1: "none", 2: "fast or never", 3: "slow", 4: "quick"} {
		if got := Best(list[:n]); got.Method != want {
			t.Errorf("the best of %d is %s, want %s", n, got.Method, want)
		}
	}
}
