package godemo

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vmferry/vmferry/internal/machine"
	"github.com/vmferry/vmferry/live"
)

// Report is the result of a demo.
type Report struct {
	// Verified says that memory and ledger were equal on both sides at the handover,
	// only the destination ran the machine afterwards, the counters continued without
	// a gap, and every page held its last acknowledged write at the end.
	Verified bool     `json:"verified"`
	Problems []string `json:"problems,omitempty"`

	Memory      uint64        `json:"memory_bytes"`
	Method      string        `json:"method"`
	Channels    int           `json:"channels"`
	Writers     int           `json:"writers"`
	Rounds      int           `json:"rounds"`
	Total       time.Duration `json:"total_ns"`
	Downtime    time.Duration `json:"downtime_ns"`
	Digest      time.Duration `json:"digest_ns"` // not part of the two above
	Bytes       uint64        `json:"bytes"`
	Zero        uint64        `json:"zero_pages"`
	Raw         uint64        `json:"raw_pages"`
	Compressed  uint64        `json:"compressed_pages"`
	Ratio       float64       `json:"ratio"` // of the bytes of non-zero pages to the bytes on the wire
	SourceCPU   time.Duration `json:"source_cpu_ns"`
	DestCPU     time.Duration `json:"destination_cpu_ns"`
	DestFaults  int64         `json:"destination_faults"`
	DataPages   uint64        `json:"data_pages"` // non-zero pages of the first round, to compare with DestFaults
	Acknowledge uint64        `json:"acknowledged_writes"`
	WentOnTo    uint64        `json:"went_on_to"`
	MemoryHash  string        `json:"memory_hash"`
}

// observed is what both sides reported, and how their processes ended.
type observed struct {
	// paused is an event of the source, arrived and running are events of the
	// destination. source and destination are the "ended" event of each. An event
	// that was not reported is nil.
	paused, source                *Event
	arrived, running, destination *Event
	sourceErr, destinationErr     error
	// destinationKilled says that runSides killed the destination.
	destinationKilled bool
}

// record records an event.
func (s *observed) record(from string, e Event) {
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

// newReport checks what both sides reported.
func newReport(cfg Config, s observed) Report {
	r := Report{Memory: cfg.Machine.Memory, Method: cfg.Method, Channels: cfg.Channels, Writers: cfg.Machine.Writers}
	problem := func(format string, args ...any) { r.Problems = append(r.Problems, fmt.Sprintf(format, args...)) }
	if err := errors.Join(s.sourceErr, s.destinationErr); err != nil {
		problem("a process failed: %v", err)
	}
	if s.source != nil && s.source.Error != "" {
		problem("the migration failed: %s", s.source.Error)
	}
	if s.destination != nil && s.destination.Error != "" {
		problem("the destination failed: %s", s.destination.Error)
	}
	if s.source == nil || s.destination == nil || s.arrived == nil || s.source.Facts == nil || s.arrived.Facts == nil {
		problem("a side did not report its end")
		return r
	}
	r.setFigures(s)
	sent := s.source.Facts
	r.Problems = append(r.Problems, compareFacts(*sent, *s.arrived.Facts)...)
	if s.source.Runs || !s.destination.Runs {
		problem("only the destination should run: source %v, destination %v", s.source.Runs, s.destination.Runs)
	}
	r.Problems = append(r.Problems, counterGaps("the destination", sent.Counters, s.destination)...)
	for _, last := range sent.Counters {
		r.Acknowledge += last
	}
	for _, last := range s.destination.Counters {
		r.WentOnTo += last
	}
	r.MemoryHash = sent.Memory
	r.Verified = len(r.Problems) == 0
	return r
}

// compareFacts returns the differences between the facts of the source and those of the
// destination.
func compareFacts(source, destination machine.Facts) (problems []string) {
	if source.Memory != destination.Memory {
		problems = append(problems, fmt.Sprintf("the memory differs at the handover: %s at the source, %s at the destination", source.Memory, destination.Memory))
	}
	if source.Ledger != destination.Ledger || !slices.Equal(source.Counters, destination.Counters) {
		problems = append(problems, fmt.Sprintf("acknowledged writes are lost: the source's ledger is %s at %d, the destination's is %s at %d",
			source.Ledger, source.Counters, destination.Ledger, destination.Counters))
	}
	return problems
}

// counterGaps names the writers that did not continue with the write after their last
// one, at the side with the given "ended" event.
func counterGaps(at string, last []uint64, ended *Event) (problems []string) {
	for i, last := range last {
		if i >= len(ended.Began) || i >= len(ended.Counters) {
			problems = append(problems, fmt.Sprintf("writer %d does not run at %s", i, at))
			continue
		}
		if began := ended.Began[i]; began != last+1 {
			problems = append(problems, fmt.Sprintf("writer %d stopped at write %d and continued with write %d", i, last, began))
		}
		if ended.Counters[i] <= last {
			problems = append(problems, fmt.Sprintf("writer %d does not continue: write %d, then %d", i, last, ended.Counters[i]))
		}
	}
	return problems
}

// setFigures sets the figures of the migration. It subtracts the time in which the
// destination hashed all memory, which is not part of a migration.
func (r *Report) setFigures(s observed) {
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
