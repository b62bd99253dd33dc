package godemo

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/machine"
	"github.com/vmferry/vmferry/live"
)

// successfulMigration returns the events of a migration that lost nothing.
func successfulMigration() observed {
	facts := func() *machine.Facts {
		return &machine.Facts{Counters: []uint64{10, 20}, Ledger: "ledger", Memory: "memory"}
	}
	return observed{
		arrived:     &Event{Facts: facts(), Digest: time.Millisecond},
		running:     &Event{},
		source:      &Event{Facts: facts(), Outcome: &live.Outcome{Total: time.Second, Downtime: 5 * time.Millisecond}},
		destination: &Event{Runs: true, Began: []uint64{11, 21}, Counters: []uint64{15, 30}},
	}
}

func TestNewReport_SuccessfulMigrationIsVerified(t *testing.T) {
	r := newReport(Config{}, successfulMigration())
	if !r.Verified || len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	if r.Acknowledge != 30 || r.WentOnTo != 45 || r.Downtime != 4*time.Millisecond {
		t.Errorf("%d acknowledged writes, %d at the end, downtime %v; want 30, 45, 4ms", r.Acknowledge, r.WentOnTo, r.Downtime)
	}
}

func TestNewReport_NamesEachProblem(t *testing.T) {
	for want, damage := range map[string]func(*observed){
		"the memory differs":                         func(s *observed) { s.arrived.Facts.Memory = "other" },
		"ledger is ledger at":                        func(s *observed) { s.arrived.Facts.Ledger = "other" },
		"acknowledged writes are lost":               func(s *observed) { s.arrived.Facts.Counters[1]-- },
		"source true, destination true":              func(s *observed) { s.source.Runs = true },
		"source false, destination false":            func(s *observed) { s.destination.Runs = false },
		"at write 10 and continued with write 12":    func(s *observed) { s.destination.Began[0]++ },
		"writer 1 does not continue: write 20, then": func(s *observed) { s.destination.Counters[1] = 20 },
		"writer 1 does not run":                      func(s *observed) { s.destination.Began = s.destination.Began[:1] },
		"the migration failed: broken":               func(s *observed) { s.source.Error = "broken" },
		"the destination failed: broken":             func(s *observed) { s.destination.Error = "broken" },
		"a process failed: page":                     func(s *observed) { s.destinationErr = errors.New("page") },
		"a process failed: signal":                   func(s *observed) { s.sourceErr = errors.New("signal") },
		"a side did not report its end":              func(s *observed) { s.source = nil },
		"did not report its end":                     func(s *observed) { s.arrived = nil },
	} {
		s := successfulMigration()
		damage(&s)
		r := newReport(Config{}, s)
		if got := strings.Join(r.Problems, "\n"); r.Verified || !strings.Contains(got, want) {
			t.Errorf("problems %q, verified %v; want %q", got, r.Verified, want)
		}
	}
}
