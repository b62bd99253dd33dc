package qemu

import "time"

// downtimeSteps chooses the downtime limit of a save from round to round. QEMU pauses the
// machine as soon as it expects to send the rest within the limit, and then sends about as
// much as the limit allows. With the user's limit alone, a machine that hardly writes
// would be paused for most of that limit. So a save begins with a low limit, and raises it
// while further rounds do not help:
//
//   - The limit begins at firstDowntime, or at the user's limit if that is lower.
//   - A round that leaves more than half of what the round before it left doubles the limit,
//     at most once in stepInterval.
//   - From half of maxRounds on, the limit is the user's; from the begin on if that is 0.
type downtimeSteps struct {
	limit, most time.Duration // now, and the user's
	polished    uint64        // the last round with a lower limit than the user's
	round       uint64        // the last one that was observed
	remaining   uint64        // bytes, at its begin
	raised      time.Time
}

const (
	// firstDowntime is some times what QEMU and the receiver need for a pause without
	// pages.
	firstDowntime = 10 * time.Millisecond
	// stepInterval is the time within which QEMU puts a new limit into effect.
	stepInterval = 100 * time.Millisecond
)

func newDowntimeSteps(most time.Duration, maxRounds int) *downtimeSteps {
	d := &downtimeSteps{limit: min(firstDowntime, most), most: most, polished: uint64(maxRounds / 2)}
	if d.polished == 0 {
		d.limit = most
	}
	return d
}

// observe learns which round is sent and how many bytes remain, and reports whether it
// has raised the limit. Round 1 sends all memory; so round 3 is the first one that can
// be compared with the one before it.
func (d *downtimeSteps) observe(round, remaining uint64, now time.Time) (raised bool) {
	if d.limit >= d.most || round <= d.round {
		return false
	}
	compare, before := d.round >= 2, d.remaining
	d.round, d.remaining = round, remaining
	switch {
	case round > d.polished:
		d.limit = d.most
	case compare && remaining > before/2 && now.Sub(d.raised) >= stepInterval:
		d.limit = min(2*d.limit, d.most)
	default:
		return false
	}
	d.raised = now
	return true
}
