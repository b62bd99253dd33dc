package migration

import (
	"errors"
	"sync"

	"github.com/vmferry/vmferry/multifd"
)

// decision is the moment from which a migration has arrived, whatever its channels
// carry later: Commit, a handover and the answer to the source go by it. A channel that fails
// before it is an error; one that fails behind it comes too late to be one, because
// the machine may run here already and nowhere else.
type decision struct {
	mu     sync.Mutex
	taken  bool
	failed error // of the first channel that failed before
}

// decide takes the decision, or returns how a channel failed.
func (in *Inbound) decide() error {
	in.decision.mu.Lock()
	defer in.decision.mu.Unlock()
	in.decision.taken = in.decision.failed == nil
	return in.decision.failed
}

// unlessDecided returns err, how a channel ended, if the decision was not taken before.
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
		in.cfg.Logger.Warn("a channel carried something behind the end of the migration, which is left out", "error", err)
	}
	return nil
}
