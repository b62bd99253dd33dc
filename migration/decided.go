package migration

import (
	"errors"
	"sync"

	"github.com/vmferry/vmferry/multifd"
)

// decision is the moment from which a migration has arrived, whatever its channels
// carry later: Commit, Start and the source's answer go by it. A channel that fails
// before it is an error; one that fails behind it comes too late to be one, because
// the machine may run here already and nowhere else.
type decision struct {
	mu     sync.Mutex
	taken  bool
	failed error // of the first channel that failed before
}

// decide takes the decision, or returns how a channel failed.
func (d *destination) decide() error {
	d.decision.mu.Lock()
	defer d.decision.mu.Unlock()
	d.decision.taken = d.decision.failed == nil
	return d.decision.failed
}

// unlessDecided returns err, how a channel ended, if the decision was not taken before.
func (d *destination) unlessDecided(err error) error {
	d.decision.mu.Lock()
	defer d.decision.mu.Unlock()
	if !d.decision.taken && d.decision.failed == nil {
		d.decision.failed = err
	}
	if !d.decision.taken {
		return err
	}
	if errors.Is(err, multifd.ErrMalformed) {
		d.cfg.Logger.Warn("a channel carried something behind the end of the migration, which is left out", "error", err)
	}
	return nil
}
