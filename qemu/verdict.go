package qemu

import (
	"context"
	"sync"

	"github.com/vmferry/vmferry/qemu/agreement"
)

// verdict is a destination's one decision about the machine: it may run here, because the
// source has said so, or it never runs here. The first of allow and never decides.
type verdict struct {
	mu      sync.Mutex
	decided bool
	done    chan struct{} // closed when outcome is set
	outcome agreement.Message
}

func newVerdict() *verdict { return &verdict{done: make(chan struct{})} }

// allow decides that the machine may run here. It is false if that was decided before,
// either way. The caller then calls set.
func (v *verdict) allow() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	first := !v.decided
	v.decided = true
	return first
}

// never decides that the machine does not run here, unless it may run already.
func (v *verdict) never(reason string) {
	if v.allow() {
		v.set(agreement.Message{Type: agreement.TypeOutcome, Outcome: agreement.Stays, Reason: reason})
	}
}

// set sets the outcome of the decision.
func (v *verdict) set(outcome agreement.Message) {
	v.outcome = outcome
	close(v.done)
}

// await returns the outcome, once there is one.
func (v *verdict) await(ctx context.Context) (agreement.Message, error) {
	select {
	case <-v.done:
		return v.outcome, nil
	case <-ctx.Done():
		return agreement.Message{}, context.Cause(ctx)
	}
}
