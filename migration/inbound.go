package migration

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// Inbound is one migration on its way in. Its phases, in their order, are the table in
// runPhases. A handover (ReceiveConfig.Handover) takes part in the last one by the
// exported methods.
type Inbound struct {
	cfg           *ReceiveConfig
	ctx           context.Context
	acc           *transport.Acceptor
	conns         *transport.Connections
	watch         *transport.Watch
	acceptResult  chan error   // how RefuseMore ended
	releaseMemory func() error // ends the accelerator's use of guest memory
	rendezvous    *rendezvous
	main          *vmstate.Destination
	mainLane      guest.Lane
	namedPages    *namedPages // nil where nothing depends on whether all pages came
	channels      []*channel
	oneOffset     [1]uint64   // for pages that come by the main channel
	allReceived   atomic.Bool // all has arrived: how a channel ends does not count any more
	closed        sync.Once   // of the acceptor
	decision      decision
	received      *Received
	shutSent      bool // SHUT was written

	mu     sync.Mutex
	states []multifd.DeviceState
}

// phase is a step of an inbound migration, behind the gathering of its connections.
type phase struct {
	name string // for the log
	run  func() error
}

// runPhases runs the phases of the main channel, which are those of the migration. The
// multifd channels are read beside the first. The source learns of the first failure.
func (in *Inbound) runPhases() error {
	phases := []phase{
		{"memory and device state", func() error { return in.main.Run(in) }},
		{"no more connections", in.endAccept},
		{"sink", in.closeLanes},
		{"all pages named", in.checkComplete},
		{"decision", in.decide},
		{"commit", in.commit},
		{"answer", in.reportSuccess},
	}
	for _, p := range phases {
		in.cfg.Logger.Debug("inbound migration", "phase", p.name)
		if err := p.run(); err != nil {
			in.reportFailure()
			return err
		}
	}
	return nil
}

// hasPing tells whether the source has sent a PING of that value.
func (in *Inbound) hasPing(word uint32) bool { return hasPing(in.main.Commands(), word) }

// endAccept returns how the accepting of connections ended: one channel more of the
// source is an error.
func (in *Inbound) endAccept() error {
	in.closeAccept()
	return <-in.acceptResult
}

// closeLanes closes the lanes: no page comes after it. Then all is known that came.
func (in *Inbound) closeLanes() error {
	in.rendezvous.end(errNoSyncPoint)
	var first error
	for _, c := range in.channels {
		in.waitForOthers(c.mu.Lock) // a channel that is inside a packet
		c.ended = true
		if c.lane != nil {
			if err := c.lane.Close(); err != nil && first == nil {
				first = err
			}
		}
		c.mu.Unlock()
	}
	if err := in.mainLane.Close(); err != nil && first == nil {
		first = err
	}
	if first == nil {
		in.received = in.collect()
	}
	return first
}

// checkComplete checks that a source that asks for a handover named every page of
// guest memory.
func (in *Inbound) checkComplete() error {
	switch {
	case !in.hasPing(vmstate.HandoverRequest):
		return nil
	case in.namedPages == nil:
		return fmt.Errorf("%w: the source asked for a handover after its memory had begun to come, so that what came is not known", ErrIncomplete)
	}
	return in.namedPages.complete()
}

func (in *Inbound) commit() error {
	if in.cfg.Commit == nil {
		return nil
	}
	return in.cfg.Commit(in.received)
}

// reportSuccess tells the source that all is well, or hands over.
func (in *Inbound) reportSuccess() error {
	if in.cfg.Handover != nil && in.hasPing(vmstate.HandoverRequest) {
		in.allReceived.Store(true)
		err := in.cfg.Handover(in)
		if err != nil {
			in.awaitPeerClose()
		}
		return err
	}
	if err := in.Shut(true); err != nil {
		return fmt.Errorf("telling the source that all has arrived: %w", err)
	}
	if late := in.awaitPeerClose(); late > 0 && in.main.EndedBySilence() {
		return fmt.Errorf("%w: the source sent %d bytes more of device state behind what looked like its end: what was received is not complete", vmstate.ErrNoDescription, late)
	}
	return nil
}

// reportFailure tells the source that the migration failed, if it was not told anything yet.
func (in *Inbound) reportFailure() {
	if in.shutSent {
		return
	}
	in.Shut(false) // the error that led here counts
}

// closeWait is how long the source may take to close its channels after the end.
const closeWait = 2 * time.Second

// awaitPeerClose waits a little for the source to close its connections, and returns how much
// it still sent.
func (in *Inbound) awaitPeerClose() (late int64) {
	in.allReceived.Store(true)
	// Let the source close first: one that finds its channels gone may take
	// it for a failure.
	for _, conn := range append([]net.Conn{in.conns.Main}, in.conns.Channels...) {
		conn.SetReadDeadline(time.Now().Add(closeWait))
	}
	if in.main.ReturnPath() {
		late, _ = io.Copy(io.Discard, in.conns.Main)
	}
	return late
}

// collect gathers what came besides pages.
func (in *Inbound) collect() *Received {
	r := &Received{
		Head: in.main.Head(), Devices: in.main.Devices(), Config: in.main.Configuration(),
		Layout: in.main.Layout(), SyncMode: in.main.SyncMode(), Commands: in.main.Commands(),
		UUID: in.conns.UUID, ReturnPath: in.main.ReturnPath(),
	}
	in.mu.Lock()
	r.States = in.states
	in.mu.Unlock()
	for _, c := range in.channels {
		c.mu.Lock()
		r.ExtraSyncs += c.extraSyncs
		c.mu.Unlock()
	}
	if r.ExtraSyncs > 0 {
		in.cfg.Logger.Warn("channels carried SYNCs that the main channel had no sync point for", "count", r.ExtraSyncs)
	}
	return r
}

// unregister is called when the channels are closed: no job is left.
func (in *Inbound) unregister() {
	if in.releaseMemory == nil {
		return
	}
	if err := in.releaseMemory(); err != nil {
		in.cfg.Logger.Warn("taking guest memory back from the accelerator", "error", err)
	}
}

// The methods below are for a handover.

// Received returns what came besides pages.
func (in *Inbound) Received() *Received { return in.received }

// Context ends when the migration is to end, or a channel fails.
func (in *Inbound) Context() context.Context { return in.ctx }

// NextCommand waits for the source's next command. SetReadDeadline bounds the wait.
func (in *Inbound) NextCommand() (vmstate.Command, error) { return in.main.NextCommand() }

// SetReadDeadline bounds the reading of the main channel.
func (in *Inbound) SetReadDeadline(t time.Time) error { return in.conns.Main.SetReadDeadline(t) }

// Pong writes a PONG that no PING asked for.
func (in *Inbound) Pong(value uint32) error { return in.main.Pong(value) }

// Shut tells the source how the migration went. It is the last answer.
func (in *Inbound) Shut(ok bool) error {
	in.shutSent = true
	return in.main.Shut(ok)
}

// Reopen accepts connections again, for a source that lost its own: most at a time.
func (in *Inbound) Reopen(most int) (transport.Serve, error) { return in.acc.Reopen(most) }
