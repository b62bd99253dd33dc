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
	mu         sync.Mutex
	parties    int
	arrived    int
	allArrived chan struct{} // closed when all are there
	broken     error
	stopped    chan struct{} // closed when broken
	passed     uint64
	// packets are those from before the last sync point, and coming those of
	// the parties that are at the next.
	packets, nextPackets packetNumbers
}

func newRendezvous(channels int) *rendezvous {
	return &rendezvous{parties: channels + 1, allArrived: make(chan struct{}), stopped: make(chan struct{})}
}

// wait returns when everybody is at the sync point. The caller has seen these
// packets since its last one.
func (r *rendezvous) wait(ctx context.Context, packets packetNumbers) error {
	r.mu.Lock()
	if err := r.broken; err != nil {
		r.mu.Unlock()
		return err
	}
	met := r.allArrived
	r.nextPackets.merge(packets)
	if r.arrived++; r.arrived == r.parties {
		r.arrived = 0
		r.passed++
		r.packets.late = 0 // the channels have said anew
		r.packets.merge(r.nextPackets)
		r.nextPackets = packetNumbers{}
		r.allArrived = make(chan struct{})
		close(met)
	}
	r.mu.Unlock()
	select {
	case <-met:
		return nil
	case <-r.stopped:
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

// checkPackets says whether packets from before the last sync point are missing.
func (r *rendezvous) checkPackets() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.packets.check(r.parties - 1); err != nil {
		return fmt.Errorf("sync point %d: %w", r.passed, err)
	}
	return nil
}

// fail says that a party will come to no more sync points, and why that is
// wrong for those who wait or will.
func (r *rendezvous) fail(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken == nil {
		r.broken = fmt.Errorf("sync point %d: %w", r.passed+1, why)
		close(r.stopped)
	}
}

// end says that there are no more sync points, for whoever still comes.
func (r *rendezvous) end(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken == nil {
		close(r.stopped)
	}
	r.broken = why
}
