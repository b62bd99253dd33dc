package live

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/migration"
)

// Round is what Migrate says of a round.
type Round struct {
	// Number counts from 1. Last says that the machine stood still.
	Number int  `json:"round"`
	Last   bool `json:"last,omitempty"`
	// Took is from the first page to the destination's word that all are in
	// place, Scan how long it then took to collect what was dirtied meanwhile.
	Took time.Duration `json:"took_ns"`
	Scan time.Duration `json:"scan_ns"`
	// Zero, Raw and Compressed are the pages sent, by how.
	Zero       uint64 `json:"zero_pages"`
	Raw        uint64 `json:"raw_pages"`
	Compressed uint64 `json:"compressed_pages"`
	// Bytes is what all channels carried, and Channels the bytes a second of
	// each.
	Bytes    uint64    `json:"bytes"`
	Channels []float64 `json:"channel_bytes_per_second"`
	// Remaining are the pages that are dirty now, DirtyRate the bytes of
	// memory dirtied a second; a page that was written twice counts once.
	Remaining uint64  `json:"remaining_pages"`
	DirtyRate float64 `json:"dirty_bytes_per_second"`
	// ExpectedDowntime is how long it would take to send what remains, if the
	// machine stood still from now on.
	ExpectedDowntime time.Duration `json:"expected_downtime_ns"`
	// Throttle is the share of their time that the writers lose.
	Throttle float64 `json:"throttle,omitempty"`
	// CPU and the page faults are those of the whole process, the machine
	// included.
	CPU         time.Duration `json:"cpu_ns"`
	MinorFaults int64         `json:"minor_faults"`
	MajorFaults int64         `json:"major_faults"`
}

// Pages returns how many pages were sent.
func (r *Round) Pages() uint64 { return r.Zero + r.Raw + r.Compressed }

// Outcome is what Migrate did.
type Outcome struct {
	Rounds []Round `json:"rounds"`
	// Total is the whole migration, until the machine runs at one side for
	// good. StopLog is how long it then took to stop the dirty log.
	Total   time.Duration `json:"total_ns"`
	StopLog time.Duration `json:"stop_log_ns"`
	// Downtime is from the call of Pause to the destination's word that it
	// runs, or, if the machine went on here, to the call of Resume. 0 means
	// that it never stood still.
	Downtime time.Duration `json:"downtime_ns"`
	// Switch is what the downtime was made of.
	Switch Switch `json:"switch"`
	// Verified says that the destination took part in the handover. One that
	// did not, such as vmferry receive, has everything all the same.
	Verified bool `json:"verified"`

	Zero        uint64        `json:"zero_pages"`
	Raw         uint64        `json:"raw_pages"`
	Compressed  uint64        `json:"compressed_pages"`
	Bytes       uint64        `json:"bytes"`
	CPU         time.Duration `json:"cpu_ns"`
	MinorFaults int64         `json:"minor_faults"`
	MajorFaults int64         `json:"major_faults"`
}

// Switch are the parts of the downtime, in their order.
type Switch struct {
	// Pause is the owner's, Collect the last look into the dirty log, Send the
	// rest with the state, Prepare until the destination had all of it and had
	// loaded it, Start until it ran.
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

// forecast foresees how long pages take to send.
type forecast struct {
	perPage time.Duration // of pages with data; 0 while unknown
}

// minMeasuredPages is how many pages a round has to have for its speed to count: of
// fewer, the way there and back is all that is seen.
const minMeasuredPages = 256

// learn takes the speed of a round.
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

// defaultPerPage is what a page takes as long as nothing is known: 4 KiB at 100 MB
// a second.
const defaultPerPage = 40 * time.Microsecond

// sending is how long it takes to send that many pages.
func (f *forecast) sending(pages uint64) time.Duration {
	perPage := f.perPage
	if perPage == 0 {
		perPage = defaultPerPage
	}
	return time.Duration(pages) * perPage
}

// downtime is how long it takes to find and send that many pages and to hand
// over, which is two ways there and back.
func (f *forecast) downtime(pages uint64, scan, rtt time.Duration) time.Duration {
	return scan + f.sending(pages) + 2*rtt
}

// divergenceDetector watches whether rounds get smaller.
type divergenceDetector struct {
	lastRemaining uint64
	rounds        int // that did not, in a row
	hasLast       bool
}

const (
	// minShrink is by how much what remains has to shrink from round to round.
	minShrink = 0.9
	// maxStuckRounds is how many rounds may not shrink before the machine counts as
	// one that does not converge.
	maxStuckRounds = 3

	firstThrottle = 0.2
	throttleStep  = 0.15
	maxThrottle   = 0.95
)

// observe takes what a round left and says whether that is no progress.
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

// exceeded says that patience is at an end.
func (d *divergenceDetector) exceeded() bool { return d.rounds >= maxStuckRounds }

// reset gives a change time to show.
func (d *divergenceDetector) reset() { d.rounds, d.hasLast = 0, false }

func nextThrottle(now float64) float64 {
	if now == 0 {
		return firstThrottle
	}
	return min(now+throttleStep, maxThrottle)
}
