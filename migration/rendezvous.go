package migration

import (
	"context"
	"fmt"
	"sync"
)

// rendezvous is a barrier for the main channel and all multifd channels at each sync
// point. No party continues before all have arrived. So everything that was sent before
// a sync point is in place before anything that was sent after it, on any channel.
type rendezvous struct {
	mu         sync.Mutex
	parties    int
	arrived    int
	allArrived chan struct{} // closed when all parties have arrived
	broken     error
	stopped    chan struct{} // closed when broken
	passed     uint64
	// packets are from before the last sync point, nextPackets are from the parties
	// that have arrived at the next one.
	packets, nextPackets packetNumbers
}

func newRendezvous(channels int) *rendezvous {
	return &rendezvous{parties: channels + 1, allArrived: make(chan struct{}), stopped: make(chan struct{})}
}

// wait returns when all parties have arrived at the sync point. packets are those of
// the caller since its last sync point.
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
		r.packets.late = 0 // nextPackets has the current value
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
		// All may have arrived just before the failure.
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

// checkPackets returns an error if packets from before the last sync point are missing.
func (r *rendezvous) checkPackets() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.packets.check(r.parties - 1); err != nil {
		return fmt.Errorf("sync point %d: %w", r.passed, err)
	}
	return nil
}

// fail records that a party will not arrive any more. Present and later calls of wait
// return the error why.
func (r *rendezvous) fail(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken == nil {
		r.broken = fmt.Errorf("sync point %d: %w", r.passed+1, why)
		close(r.stopped)
	}
}

// end records that there are no more sync points. Later calls of wait return the error
// why.
func (r *rendezvous) end(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken == nil {
		close(r.stopped)
	}
	r.broken = why
}
