package godemo

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vmferry/vmferry/internal/machine"
	"github.com/vmferry/vmferry/live"
)

// Report is what the demo saw.
type Report struct {
	// Verified is whether all of the following holds: the whole memory and the
	// ledger were equal at the switch, the source stood still and the
	// destination ran, the counters went on without a gap, and every page held
	// its last acknowledged write in the end.
	Verified bool     `json:"verified"`
	Problems []string `json:"problems,omitempty"`

	Memory      uint64        `json:"memory_bytes"`
	Method      string        `json:"method"`
	Channels    int           `json:"channels"`
	Writers     int           `json:"writers"`
	Rounds      int           `json:"rounds"`
	Total       time.Duration `json:"total_ns"`
	Downtime    time.Duration `json:"downtime_ns"`
	Digest      time.Duration `json:"digest_ns"` // taken off the two above
	Bytes       uint64        `json:"bytes"`
	Zero        uint64        `json:"zero_pages"`
	Raw         uint64        `json:"raw_pages"`
	Compressed  uint64        `json:"compressed_pages"`
	Ratio       float64       `json:"ratio"` // of the bytes of non-zero pages to those on the wire
	SourceCPU   time.Duration `json:"source_cpu_ns"`
	DestCPU     time.Duration `json:"destination_cpu_ns"`
	DestFaults  int64         `json:"destination_faults"`
	DataPages   uint64        `json:"data_pages"` // that the destination's faults compare with
	Acknowledge uint64        `json:"acknowledged_writes"`
	WentOnTo    uint64        `json:"went_on_to"`
	MemoryHash  string        `json:"memory_hash"`
}

// saw is what came of both sides.
type saw struct {
	// paused is the source's, arrived and running are the destination's, and
	// source and destination how they ended. What was not said is nil.
	paused, source                *Event
	arrived, running, destination *Event
	sourceErr, destinationErr     error
	// cut says that the destination did not end by itself.
	cut bool
}

// heard notes an event.
func (s *saw) heard(from string, e Event) {
	switch from + " " + e.Event {
	case "source paused":
		s.paused = &e
	case "source ended":
		s.source = &e
	case "destination arrived":
		s.arrived = &e
	case "destination running":
		s.running = &e
	case "destination ended":
		s.destination = &e
	}
}

// judge compares what the sides saw.
func judge(cfg Config, s saw) Report {
	r := Report{Memory: cfg.Machine.Memory, Method: cfg.Method, Channels: cfg.Channels, Writers: cfg.Machine.Writers}
	problem := func(format string, args ...any) { r.Problems = append(r.Problems, fmt.Sprintf(format, args...)) }
	if err := errors.Join(s.sourceErr, s.destinationErr); err != nil {
		problem("a side failed: %v", err)
	}
	if s.source != nil && s.source.Error != "" {
		problem("the migration failed: %s", s.source.Error)
	}
	if s.destination != nil && s.destination.Error != "" {
		problem("the destination failed: %s", s.destination.Error)
	}
	if s.source == nil || s.destination == nil || s.arrived == nil || s.source.Facts == nil || s.arrived.Facts == nil {
		problem("a side did not say how it ended")
		return r
	}
	r.measure(s)
	here := s.source.Facts
	r.Problems = append(r.Problems, lost(*here, *s.arrived.Facts)...)
	if s.source.Runs || !s.destination.Runs {
		problem("exactly the destination should run: source %v, destination %v", s.source.Runs, s.destination.Runs)
	}
	r.Problems = append(r.Problems, gaps("the destination", here.Counters, s.destination)...)
	for _, last := range here.Counters {
		r.Acknowledge += last
	}
	for _, last := range s.destination.Counters {
		r.WentOnTo += last
	}
	r.MemoryHash = here.Memory
	r.Verified = len(r.Problems) == 0
	return r
}

// lost says what of the source's facts is not there.
func lost(here, there machine.Facts) (problems []string) {
	if here.Memory != there.Memory {
		problems = append(problems, fmt.Sprintf("the memory differs at the switch: %s at the source, %s at the destination", here.Memory, there.Memory))
	}
	if here.Ledger != there.Ledger || !slices.Equal(here.Counters, there.Counters) {
		problems = append(problems, fmt.Sprintf("acknowledged writes are lost: the source's ledger is %s at %d, the destination's pages make %s at %d",
			here.Ledger, here.Counters, there.Ledger, there.Counters))
	}
	return problems
}

// gaps says which writers did not go on, at the side that ended so, right where
// they had ended.
func gaps(at string, last []uint64, ended *Event) (problems []string) {
	for i, last := range last {
		if i >= len(ended.Began) || i >= len(ended.Counters) {
			problems = append(problems, fmt.Sprintf("writer %d does not run at %s", i, at))
			continue
		}
		if began := ended.Began[i]; began != last+1 {
			problems = append(problems, fmt.Sprintf("writer %d ended with number %d and went on with %d", i, last, began))
		}
		if ended.Counters[i] <= last {
			problems = append(problems, fmt.Sprintf("writer %d does not go on: %d, then %d", i, last, ended.Counters[i]))
		}
	}
	return problems
}

// measure takes the figures from the events. Digesting all memory is the
// demo's, not the migration's: its time is taken off.
func (r *Report) measure(s saw) {
	o := s.source.Outcome
	if o == nil {
		o = new(live.Outcome)
	}
	r.Rounds, r.Digest = len(o.Rounds), s.arrived.Digest
	r.Total, r.Downtime = o.Total-r.Digest, o.Downtime-r.Digest
	r.Bytes, r.Zero, r.Raw, r.Compressed = o.Bytes, o.Zero, o.Raw, o.Compressed
	if r.Bytes > 0 {
		r.Ratio = float64(r.Raw+r.Compressed) * 4096 / float64(r.Bytes)
	}
	r.SourceCPU, r.DestCPU, r.DestFaults = o.CPU, s.arrived.CPU, s.arrived.Faults
	if len(o.Rounds) > 0 {
		r.DataPages = o.Rounds[0].Raw + o.Rounds[0].Compressed
	}
}
