package migration

import (
	"errors"
	"sync"

	"github.com/vmferry/vmferry/multifd"
)

// decision is the point from which a migration counts as received. Commit, a handover
// and the final SHUT follow it. A channel that fails before the decision fails the
// migration. A later failure is ignored, because the machine may already run here and
// at no other place.
type decision struct {
	mu     sync.Mutex
	taken  bool
	failed error // of the first channel that failed before the decision
}

// decide takes the decision, or returns the error of a channel that failed before.
func (in *Inbound) decide() error {
	in.decision.mu.Lock()
	defer in.decision.mu.Unlock()
	in.decision.taken = in.decision.failed == nil
	return in.decision.failed
}

// unlessDecided returns err, the result of a channel, or nil if the decision has been
// taken.
func (in *Inbound) unlessDecided(err error) error {
	in.decision.mu.Lock()
	defer in.decision.mu.Unlock()
	if !in.decision.taken && in.decision.failed == nil {
		in.decision.failed = err
	}
	if !in.decision.taken {
		return err
	}
	if errors.Is(err, multifd.ErrMalformed) {
		in.cfg.Logger.Warn("ignored data on a channel after the end of the migration", "error", err)
	}
	return nil
}
