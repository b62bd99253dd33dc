package godemo

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/machine"
	"github.com/vmferry/vmferry/live"
)

// aMove is what both sides say of a machine that moved.
func aMove() saw {
	facts := func() *machine.Facts {
		return &machine.Facts{Counters: []uint64{10, 20}, Ledger: "ledger", Memory: "memory"}
	}
	return saw{
		arrived:     &Event{Facts: facts(), Digest: time.Millisecond},
		running:     &Event{},
		source:      &Event{Facts: facts(), Outcome: &live.Outcome{Total: time.Second, Downtime: 5 * time.Millisecond}},
		destination: &Event{Runs: true, Began: []uint64{11, 21}, Counters: []uint64{15, 30}},
	}
}

func TestAMoveThatLostNothingIsVerified(t *testing.T) {
	r := judge(Config{}, aMove())
	if !r.Verified || len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	if r.Acknowledge != 30 || r.WentOnTo != 45 || r.Downtime != 4*time.Millisecond {
		t.Errorf("%d writes that went on to %d, %v of downtime", r.Acknowledge, r.WentOnTo, r.Downtime)
	}
}

func TestWhateverIsWrongIsSaid(t *testing.T) {
	for want, spoil := range map[string]func(*saw){
		"the memory differs":                func(s *saw) { s.arrived.Facts.Memory = "other" },
		"ledger is ledger at":               func(s *saw) { s.arrived.Facts.Ledger = "other" },
		"acknowledged writes are lost":      func(s *saw) { s.arrived.Facts.Counters[1]-- },
		"source true, destination true":     func(s *saw) { s.source.Runs = true },
		"source false, destination false":   func(s *saw) { s.destination.Runs = false },
		"number 10 and went on with 12":     func(s *saw) { s.destination.Began[0]++ },
		"writer 1 does not go on: 20, then": func(s *saw) { s.destination.Counters[1] = 20 },
		"writer 1 does not run":             func(s *saw) { s.destination.Began = s.destination.Began[:1] },
		"the migration failed: broken":      func(s *saw) { s.source.Error = "broken" },
		"the destination failed: broken":    func(s *saw) { s.destination.Error = "broken" },
		"a side failed: page":               func(s *saw) { s.destinationErr = errors.New("page") },
		"a side failed: signal":             func(s *saw) { s.sourceErr = errors.New("signal") },
		"a side did not say how it ended":   func(s *saw) { s.source = nil },
		"a side did not say":                func(s *saw) { s.arrived = nil },
	} {
		s := aMove()
		spoil(&s)
		r := judge(Config{}, s)
		if said := strings.Join(r.Problems, "\n"); r.Verified || !strings.Contains(said, want) {
			t.Errorf("want %q; there is %q, verified %v", want, said, r.Verified)
		}
	}
}
