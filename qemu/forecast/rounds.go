package forecast

import (
	"math"
	"time"
)

// Machine is what the model knows of a machine.
type Machine struct {
	// Memory is in bytes. NonZero is the part of it whose pages are not zero.
	Memory  float64
	NonZero Range
	Dirty   DirtyCurve
}

// Method is a way to send pages.
type Method struct {
	Name string `json:"name"`
	// First and Again are the bytes on the link for each byte of a page that is not zero:
	// in the first round, and of pages that the machine wrote since.
	First Range `json:"link_share"`
	Again Range `json:"link_share_again"`
	// Speed is how many bytes of pages a second one processor compresses; 0 is no limit.
	Speed Range `json:"bytes_per_second"`
}

// Link is what carries the migration.
type Link struct {
	Bandwidth float64 // bytes a second
	// DowntimeLimit is how long the machine may be paused at the end, MaxRounds the
	// number of rounds after which the migration counts as diverging.
	DowntimeLimit time.Duration
	MaxRounds     int
	// Processors that compress at the same time.
	Processors float64
}

// Verdict says whether the rest gets small enough.
type Verdict string

const (
	Converges Verdict = "yes"
	Uncertain Verdict = "maybe" // in the favourable case only
	Diverges  Verdict = "no"
)

// Prediction is what the model says of a machine, a method and a link. Total, Downtime and
// LinkBytes have no high end if the migration may diverge, and are nil if it diverges.
type Prediction struct {
	Method    string  `json:"method"`
	Converges Verdict `json:"converges"`
	// Total and Downtime are in seconds.
	Total     *Span `json:"total_seconds"`
	Downtime  *Span `json:"downtime_seconds"`
	LinkBytes *Span `json:"link_bytes"`
	// Rounds is the number in the favourable case, 0 if the migration diverges.
	Rounds int `json:"rounds"`
}

// Span is a Range whose high end may be unknown.
type Span struct {
	Low  float64  `json:"low"`
	High *float64 `json:"high"`
}

const (
	// linkOverhead is the share of a link that headers and pauses take at most.
	linkOverhead = 0.06
	// wireOverhead is the part of QEMU's packets beside the pages, at most: the header
	// and 8 bytes a page.
	wireOverhead = 0.004
	// handling is how long the start of a migration and the switch-over take at most,
	// beside the memory.
	handling = 200 * time.Millisecond
	// zeroScan is how fast pages are checked for zero at least, in bytes a second.
	zeroScan = 4e9
)

// Predict simulates the rounds of a migration in the favourable and in the unfavourable
// case. A larger bandwidth, a longer DowntimeLimit and a machine that writes less never
// give a later end of either.
func Predict(m Machine, method Method, link Link) Prediction {
	p := Prediction{Method: method.Name, Converges: Diverges}
	limit := link.DowntimeLimit.Seconds()
	best := course{
		nonZero: m.NonZero.Low, dirty: m.Dirty.Low, first: method.First.Low, again: method.Again.Low,
		bandwidth: link.Bandwidth, compress: link.Processors * method.Speed.High,
	}.run(limit, link.MaxRounds)
	if !best.converges {
		return p
	}
	p.Converges, p.Rounds = Uncertain, best.rounds
	// QEMU pauses the machine before the end of a round, when the rest fits into the
	// limit. So a round is shorter by the limit at most. Every page that is not zero is
	// sent once.
	p.Total = &Span{Low: max(best.total-limit, best.firstRound)}
	p.Downtime = &Span{Low: best.downtime}
	p.LinkBytes = &Span{Low: best.bytes}
	worst := course{
		nonZero: m.NonZero.High, dirty: m.Dirty.High, first: method.First.High + wireOverhead, again: method.Again.High + wireOverhead,
		bandwidth: link.Bandwidth * (1 - linkOverhead), compress: link.Processors * method.Speed.Low,
		scan: m.Memory / zeroScan,
	}.run(limit, link.MaxRounds)
	if worst.converges {
		p.Converges = Converges
		p.Total.High = new(max(worst.total+handling.Seconds(), p.Total.Low))
		p.Downtime.High = new(limit + handling.Seconds())
		p.LinkBytes.High = new(worst.bytes)
	}
	return p
}

// course is one case of a migration.
type course struct {
	nonZero             float64
	dirty               func(time.Duration) float64
	first, again        float64
	bandwidth, compress float64
	scan                float64 // seconds that the first round takes for zero pages
}

// outcome is how a course ends. Times are in seconds.
type outcome struct {
	converges              bool
	rounds                 int
	firstRound             float64
	total, downtime, bytes float64
}

// run simulates the rounds.
func (c course) run(limit float64, maxRounds int) (o outcome) {
	took := c.time(c.nonZero, c.first) + c.scan
	o.firstRound, o.total, o.bytes = took, took, c.nonZero*c.first
	for o.rounds = 1; o.rounds <= maxRounds; o.rounds++ {
		dirty := c.dirty(duration(took))
		took = c.time(dirty, c.again)
		o.total += took
		o.bytes += dirty * c.again
		if took <= limit {
			// QEMU may send this rest before the pause, too.
			o.converges, o.downtime = true, c.time(c.dirty(duration(took)), c.again)
			return o
		}
	}
	return outcome{}
}

// time returns how long pages of n bytes take. Compression and sending overlap.
func (c course) time(n, share float64) float64 {
	if n <= 0 {
		return 0
	}
	t := n * share / c.bandwidth
	if c.compress > 0 {
		t = max(t, n/c.compress)
	}
	return t
}

// duration converts seconds without overflow.
func duration(seconds float64) time.Duration {
	return time.Duration(min(seconds*float64(time.Second), math.MaxInt64/2))
}

// Best returns the prediction that a method chosen by the link would have: the one that
// converges most surely, and of those the one that ends first.
func Best(predictions []Prediction) Prediction {
	best := predictions[0]
	for _, p := range predictions[1:] {
		if p.better(best) {
			best = p
		}
	}
	return best
}

func (p Prediction) better(than Prediction) bool {
	order := map[Verdict]int{Converges: 2, Uncertain: 1, Diverges: 0}
	if order[p.Converges] != order[than.Converges] {
		return order[p.Converges] > order[than.Converges]
	}
	switch p.Converges {
	case Converges:
		return p.Total.Low+*p.Total.High < than.Total.Low+*than.Total.High
	case Uncertain:
		return p.Total.Low < than.Total.Low
	}
	return false
}
