package migration

import (
	"context"
	"fmt"
	"sync"
)

// rendezvous is where the main channel and all multifd channels meet at each
// sync point. Nobody goes on before all are there: what was sent before a
// sync point is in place before anything sent after it, whichever channel it
// came by.
type rendezvous struct {
	mu      sync.Mutex
	parties int
	arrived int
	met     chan struct{} // closed when all are there
	broken  error
	stop    chan struct{} // closed when broken
	passed  uint64
}

func newRendezvous(channels int) *rendezvous {
	return &rendezvous{parties: channels + 1, met: make(chan struct{}), stop: make(chan struct{})}
}

// wait returns when everybody is at the sync point.
func (r *rendezvous) wait(ctx context.Context) error {
	r.mu.Lock()
	if err := r.broken; err != nil {
		r.mu.Unlock()
		return err
	}
	met := r.met
	if r.arrived++; r.arrived == r.parties {
		r.arrived = 0
		r.passed++
		r.met = make(chan struct{})
		close(met)
	}
	r.mu.Unlock()
	select {
	case <-met:
		return nil
	case <-r.stop:
		// It may have been met and left in the same moment.
		select {
		case <-met:
			return nil
		default:
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.broken
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// leave says that a party will come to no more sync points, and why that is
// wrong for those who wait or will.
func (r *rendezvous) leave(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken == nil {
		r.broken = fmt.Errorf("sync point %d: %w", r.passed+1, why)
		close(r.stop)
	}
}

// end says that there are no more sync points, for whoever still comes.
func (r *rendezvous) end(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken == nil {
		close(r.stop)
	}
	r.broken = why
}
