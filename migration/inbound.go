package migration

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// Inbound is one inbound migration. A handover (ReceiveConfig.Handover) runs in its
// last phase and uses the exported methods other than those of vmstate.Handler.
type Inbound struct {
	cfg           *ReceiveConfig
	ctx           context.Context
	acc           *transport.Acceptor
	conns         *transport.Connections
	watch         *transport.Watch
	acceptResult  chan error   // the result of RefuseMore
	releaseMemory func() error // unregisters guest memory from the accelerator
	rendezvous    *rendezvous
	main          *vmstate.Destination
	mainLane      guest.Lane
	namedPages    *namedPages // nil if no check needs it
	channels      []*channel
	oneOffset     [1]uint64   // for pages of the main channel
	allReceived   atomic.Bool // the results of the channels no longer matter
	closed        sync.Once   // guards acc.CloseAccept
	decision      decision
	received      *Received
	shutSent      bool // SHUT was sent

	mu     sync.Mutex
	states []devicestate.Packet
}

// phase is a step of an inbound migration after its connections are gathered.
type phase struct {
	name string // for the log
	run  func() error
}

// runPhases runs the phases of the migration in the goroutine of the main channel.
// Other goroutines read the multifd channels during the first phase. The first failure
// is reported to the source.
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

// hasPing reports whether the source has sent a PING of that value.
func (in *Inbound) hasPing(value uint32) bool { return hasPing(in.main.Commands(), value) }

// endAccept stops accepting connections. It fails if the source has opened an
// additional channel.
func (in *Inbound) endAccept() error {
	in.closeAccept()
	return <-in.acceptResult
}

// closeLanes closes the lanes, after which no page is accepted, and sets received.
func (in *Inbound) closeLanes() error {
	in.rendezvous.end(errNoSyncPoint)
	var first error
	for _, c := range in.channels {
		in.waitForOthers(c.mu.Lock) // the channel may be within a packet
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

// checkComplete fails if a source that requests a handover has not sent every page of
// guest memory, with data or as zero.
func (in *Inbound) checkComplete() error {
	switch {
	case !in.hasPing(vmstate.HandoverRequest):
		return nil
	case in.namedPages == nil:
		return fmt.Errorf("%w: the source requested the handover after its memory began to arrive, so the pages before are unknown", ErrIncomplete)
	}
	return in.namedPages.complete()
}

func (in *Inbound) commit() error {
	if in.cfg.Commit == nil {
		return nil
	}
	return in.cfg.Commit(in.received)
}

// reportSuccess runs the handover, or sends SHUT 0 and waits for the source to close.
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
		return fmt.Errorf("reporting success to the source: %w", err)
	}
	if late := in.awaitPeerClose(); late > 0 && in.main.EndedBySilence() {
		return fmt.Errorf("%w: the source sent %d more bytes of device state after a pause that was taken for the end: the received state is incomplete", vmstate.ErrNoDescription, late)
	}
	return nil
}

// reportFailure sends SHUT 1 to the source, unless a SHUT was sent before.
func (in *Inbound) reportFailure() {
	if in.shutSent {
		return
	}
	in.Shut(false) // the caller returns the migration's error
}

// closeWait bounds the wait for the source to close its channels after the end.
const closeWait = 2 * time.Second

// awaitPeerClose waits up to closeWait for the source to close its connections, and
// returns the number of bytes that it still sent on the main channel.
func (in *Inbound) awaitPeerClose() (late int64) {
	in.allReceived.Store(true)
	// Let the source close first: a source may take the loss of its channels for
	// a failure.
	for _, conn := range append([]net.Conn{in.conns.Main}, in.conns.Channels...) {
		conn.SetReadDeadline(time.Now().Add(closeWait))
	}
	if in.main.ReturnPath() {
		late, _ = io.Copy(io.Discard, in.conns.Main)
	}
	return late
}

// collect returns everything that was received except pages.
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
		in.cfg.Logger.Warn("channels sent SYNCs without a sync point of the main channel", "count", r.ExtraSyncs)
	}
	return r
}

// unregister unregisters guest memory from the accelerator. The channels must be
// closed, so that no job remains.
func (in *Inbound) unregister() {
	if in.releaseMemory == nil {
		return
	}
	if err := in.releaseMemory(); err != nil {
		in.cfg.Logger.Warn("unregistering guest memory from the accelerator failed", "error", err)
	}
}

// The methods below are for a handover.

// Received returns everything that was received except pages.
func (in *Inbound) Received() *Received { return in.received }

// Context returns the migration's context, which also ends when a channel fails.
func (in *Inbound) Context() context.Context { return in.ctx }

// NextCommand waits for the source's next command. SetReadDeadline bounds the wait.
func (in *Inbound) NextCommand() (vmstate.Command, error) { return in.main.NextCommand() }

// SetReadDeadline bounds the reading of the main channel.
func (in *Inbound) SetReadDeadline(t time.Time) error { return in.conns.Main.SetReadDeadline(t) }

// Pong sends a PONG, without a PING of that value.
func (in *Inbound) Pong(value uint32) error { return in.main.Pong(value) }

// Shut sends SHUT, the last message: whether the migration succeeded.
func (in *Inbound) Shut(ok bool) error {
	in.shutSent = true
	return in.main.Shut(ok)
}

// Reopen accepts connections again, at most limit at a time, for a source that lost its
// connections.
func (in *Inbound) Reopen(limit int) (transport.Serve, error) { return in.acc.Reopen(limit) }
