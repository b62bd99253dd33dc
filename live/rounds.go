package live

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/migration"
)

// Round is Migrate's report of a round.
type Round struct {
	// Number counts from 1. Last is set for the round while the machine was paused.
	Number int  `json:"round"`
	Last   bool `json:"last,omitempty"`
	// Took is the time from the first page to the destination's PONG, Scan the time
	// to collect the pages dirtied meanwhile.
	Took time.Duration `json:"took_ns"`
	Scan time.Duration `json:"scan_ns"`
	// Zero, Raw and Compressed count the pages sent, by encoding.
	Zero       uint64 `json:"zero_pages"`
	Raw        uint64 `json:"raw_pages"`
	Compressed uint64 `json:"compressed_pages"`
	// Bytes is the number of bytes on all channels, Channels the bytes per second of
	// each channel.
	Bytes    uint64    `json:"bytes"`
	Channels []float64 `json:"channel_bytes_per_second"`
	// Remaining is the number of dirty pages after the round, DirtyRate the bytes of
	// memory dirtied per second. A page that was written twice counts once.
	Remaining uint64  `json:"remaining_pages"`
	DirtyRate float64 `json:"dirty_bytes_per_second"`
	// ExpectedDowntime is the downtime if the machine were paused after this round.
	ExpectedDowntime time.Duration `json:"expected_downtime_ns"`
	// Throttle is the share passed to Config.Throttle, 0 to 0.95.
	Throttle float64 `json:"throttle,omitempty"`
	// CPU and the page faults are those of the whole process, including the
	// machine.
	CPU         time.Duration `json:"cpu_ns"`
	MinorFaults int64         `json:"minor_faults"`
	MajorFaults int64         `json:"major_faults"`
}

// Pages returns the number of pages sent.
func (r *Round) Pages() uint64 { return r.Zero + r.Raw + r.Compressed }

// Outcome is Migrate's report of a migration.
type Outcome struct {
	Rounds []Round `json:"rounds"`
	// Total is the duration of the migration without StopLog, StopLog the time to
	// stop the dirty log after it.
	Total   time.Duration `json:"total_ns"`
	StopLog time.Duration `json:"stop_log_ns"`
	// Downtime is the time from the call of Pause to the destination's SHUT, or, if
	// the machine stays at the source, to the call of Resume. 0 means that the
	// machine was never paused.
	Downtime time.Duration `json:"downtime_ns"`
	// Switch has the parts of the downtime.
	Switch Switch `json:"switch"`
	// Verified is set if the destination took part in the handover. A destination
	// that does not, such as vmferry receive, has everything nevertheless.
	Verified bool `json:"verified"`

	Zero        uint64        `json:"zero_pages"`
	Raw         uint64        `json:"raw_pages"`
	Compressed  uint64        `json:"compressed_pages"`
	Bytes       uint64        `json:"bytes"`
	CPU         time.Duration `json:"cpu_ns"`
	MinorFaults int64         `json:"minor_faults"`
	MajorFaults int64         `json:"major_faults"`
}

// Switch has the consecutive parts of the downtime.
type Switch struct {
	// Pause is the time of Config.Pause, Collect of the last collection of dirty
	// pages, Send of sending the rest and the state. Prepare is the time until the
	// destination has loaded everything, Start until it runs the machine.
	Pause   time.Duration `json:"pause_ns"`
	Collect time.Duration `json:"collect_ns"`
	Send    time.Duration `json:"send_ns"`
	Prepare time.Duration `json:"prepare_ns"`
	Start   time.Duration `json:"start_ns"`
}

func (o *Outcome) add(r Round) {
	o.Zero += r.Zero
	o.Raw += r.Raw
	o.Compressed += r.Compressed
	o.Bytes += r.Bytes
	o.CPU += r.CPU
	o.MinorFaults += r.MinorFaults
	o.MajorFaults += r.MajorFaults
}

// meter measures a round.
type meter struct {
	send  *migration.Sender
	began time.Time
	usage unix.Rusage
	sent  migration.Sent
}

func startMeter(s *migration.Sender) *meter {
	m := &meter{send: s, began: time.Now(), sent: s.Sent()}
	unix.Getrusage(unix.RUSAGE_SELF, &m.usage)
	return m
}

func (m *meter) read(number int) Round {
	r := Round{Number: number, Took: time.Since(m.began)}
	sent := m.send.Sent()
	pages, before := sent.Pages, m.sent.Pages
	r.Zero, r.Raw, r.Compressed = pages.Zero-before.Zero, pages.Raw-before.Raw, pages.Compressed-before.Compressed
	for i, bytes := range sent.Bytes {
		n := bytes - m.sent.Bytes[i]
		r.Bytes += n
		r.Channels = append(r.Channels, perSecond(n, r.Took))
	}
	var now unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &now)
	r.CPU = cpuTime(&now) - cpuTime(&m.usage)
	r.MinorFaults, r.MajorFaults = now.Minflt-m.usage.Minflt, now.Majflt-m.usage.Majflt
	return r
}

func cpuTime(u *unix.Rusage) time.Duration {
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func perSecond(n uint64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

// forecast estimates how long pages take to send.
type forecast struct {
	perPage time.Duration // of pages with data; 0 while unknown
}

// minMeasuredPages is the number of pages from which a round's speed is measured: a
// smaller round shows only the round-trip time.
const minMeasuredPages = 256

// learn updates the estimate with the speed of a round.
func (f *forecast) learn(r *Round, rtt time.Duration) {
	pages := r.Raw + r.Compressed
	if pages < minMeasuredPages && (f.perPage > 0 || pages == 0) {
		return
	}
	took := max(r.Took-rtt, time.Microsecond)
	now := took / time.Duration(pages)
	if f.perPage == 0 {
		f.perPage = now
		return
	}
	f.perPage = (f.perPage + now) / 2
}

// defaultPerPage is the time of a page before any measurement: 4 KiB at 100 MB/s.
const defaultPerPage = 40 * time.Microsecond

// sending estimates the time to send a number of pages.
func (f *forecast) sending(pages uint64) time.Duration {
	perPage := f.perPage
	if perPage == 0 {
		perPage = defaultPerPage
	}
	return time.Duration(pages) * perPage
}

// downtime estimates the time to collect and send a number of pages and to hand over,
// which takes two round trips.
func (f *forecast) downtime(pages uint64, scan, rtt time.Duration) time.Duration {
	return scan + f.sending(pages) + 2*rtt
}

// divergenceDetector detects rounds that do not shrink.
type divergenceDetector struct {
	lastRemaining uint64
	rounds        int // consecutive rounds that did not shrink
	hasLast       bool
}

const (
	// minShrink is the factor below which the remaining pages must shrink per round.
	minShrink = 0.9
	// maxStuckRounds is the number of consecutive rounds without shrinking after
	// which the machine counts as diverging.
	maxStuckRounds = 3

	firstThrottle = 0.2
	throttleStep  = 0.15
	maxThrottle   = 0.95
)

// observe records the remaining pages after a round, and reports whether the round made
// no progress.
func (d *divergenceDetector) observe(remaining uint64) bool {
	grew := d.hasLast && float64(remaining) >= minShrink*float64(d.lastRemaining)
	d.lastRemaining, d.hasLast = remaining, true
	if grew {
		d.rounds++
	} else {
		d.rounds = 0
	}
	return grew
}

// exceeded reports whether maxStuckRounds is reached.
func (d *divergenceDetector) exceeded() bool { return d.rounds >= maxStuckRounds }

// reset forgets the previous rounds, after the throttle changed.
func (d *divergenceDetector) reset() { d.rounds, d.hasLast = 0, false }

func nextThrottle(now float64) float64 {
	if now == 0 {
		return firstThrottle
	}
	return min(now+throttleStep, maxThrottle)
}
