package live

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmferry/vmferry/internal/cause"
	"github.com/vmferry/vmferry/vmstate"
)

// switchOver pauses the machine, sends the rest, and hands over.
func (m *migrator) switchOver(ctx context.Context) error {
	paused := time.Now()
	state, err := m.cfg.Pause(ctx)
	m.out.Switch.Pause = time.Since(paused)
	if err != nil {
		return fmt.Errorf("pausing the machine: %w", err)
	}
	runs, err := m.sendPaused(ctx, state)
	m.out.Downtime = time.Since(paused)
	if m.last.Last {
		m.report(m.last) // after the pause, so that Report adds no downtime
	}
	if runs && !m.cfg.Stay || errors.Is(err, ErrUndecided) {
		return err
	}
	if resumeErr := m.cfg.Resume(); resumeErr != nil {
		return errors.Join(err, fmt.Errorf("%w: %w", ErrNotResumed, resumeErr))
	}
	return err
}

// sendPaused sends the rest and hands over while the machine is paused. It returns
// whether the destination has taken the machine.
func (m *migrator) sendPaused(ctx context.Context, state []byte) (runs bool, err error) {
	limit := m.cfg.StandStill
	if limit <= 0 {
		limit = defaultMaxPause + 3*m.out.Rounds[len(m.out.Rounds)-1].ExpectedDowntime
	}
	slow := fmt.Errorf("the destination was not ready within %v: the machine continues at the source", limit)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, slow)
	defer cancel()
	if err := m.sendRest(ctx, state); err != nil {
		return false, err
	}
	sent := time.Now()
	prepared, err := m.awaitPrepared(ctx)
	m.out.Switch.Prepare = time.Since(sent)
	if err != nil {
		m.abort()
		return false, err
	}
	if !prepared { // the destination has everything and takes no part in a handover
		return true, nil
	}
	ready := time.Now()
	defer func() { m.out.Switch.Start = time.Since(ready) }()
	return m.runDestination(context.WithoutCancel(ctx))
}

// sendRest sends the last round, the owner's state and the end of the stream.
func (m *migrator) sendRest(ctx context.Context, state []byte) error {
	devices, err := vmstate.OwnerState(state, m.cfg.Memory.Layout().PageSize)
	if err != nil {
		return err
	}
	meter, scan := startMeter(m.send), time.Now()
	if err := m.cfg.Dirty.Collect(m.next); err != nil {
		return fmt.Errorf("collecting dirty pages: %w", err)
	}
	scanned := time.Since(scan)
	source, err := m.cfg.Memory.Dirty(m.next)
	if err != nil {
		return err
	}
	if err := m.send.Round(ctx, source); err != nil {
		return err
	}
	if err := m.send.End(ctx, devices); err != nil {
		return err
	}
	r := meter.read(len(m.out.Rounds) + 1)
	r.Last, r.Scan, r.Throttle = true, scanned, m.throttle
	r.Took -= scanned
	m.out.Switch.Collect, m.out.Switch.Send = scanned, r.Took
	m.last = r
	return nil
}

// awaitPrepared waits until the destination has loaded everything. It returns false for
// a destination that takes no part in the handover.
func (m *migrator) awaitPrepared(ctx context.Context) (bool, error) {
	back := m.send.ReturnPath()
	for {
		select {
		case code := <-back.Pongs():
			if code == vmstate.HandoverPrepared && !m.cfg.Stay {
				return true, nil
			}
		case <-back.Ended():
			// HandoverPrepared and the end may have arrived together.
			for len(back.Pongs()) > 0 {
				if code := <-back.Pongs(); code == vmstate.HandoverPrepared && !m.cfg.Stay {
					return true, nil
				}
			}
			return false, cause.Of(ctx, back.Err(), nil, "")
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// abort sends HandoverAbort: the machine stays at the source. If sending fails, the
// destination does not start the machine either, because it has no HandoverRun.
func (m *migrator) abort() {
	m.send.SetWriteDeadline(time.Now().Add(time.Second))
	m.send.SendCommand(vmstate.Ping(vmstate.HandoverAbort))
}

// startWait is how long a destination may take to start the machine before the source
// inquires over a new connection.
const startWait = 10 * time.Second

// runDestination sends HandoverRun and awaits the result. From then on the machine may
// run at the destination, and may be resumed at the source only if it is known not to
// run at the destination.
func (m *migrator) runDestination(ctx context.Context) (runs bool, err error) {
	back := m.send.ReturnPath()
	m.send.SetWriteDeadline(time.Now().Add(startWait))
	sendErr := m.send.SendCommand(vmstate.Ping(vmstate.HandoverRun))
	if sendErr == nil {
		timer := time.NewTimer(startWait)
		defer timer.Stop()
		select {
		case <-back.Ended():
		case <-timer.C:
		}
	} else {
		m.send.CloseConnections() // ends the return path too
		<-back.Ended()
	}
	lost := fmt.Errorf("no reply within %v", startWait)
	select {
	case <-back.Ended():
		lost = back.Err()
	default:
	}
	if lost == nil {
		m.out.Verified = true
		m.send.SendCommand(vmstate.Ping(vmstate.HandoverGone)) // best effort: without it the destination waits for an inquiry
		return true, nil
	}
	if errors.Is(lost, vmstate.ErrRefused) {
		return false, lost
	}
	m.cfg.Logger.Warn("lost the destination during the handover, inquiring whether the machine runs there", "error", errors.Join(lost, sendErr))
	m.send.CloseConnections()
	runs, err = inquireUntilKnown(ctx, m.dial, m.head, m.cfg.Inquiry, m.cfg.ProvesDeath)
	m.out.Verified = runs
	if err != nil {
		err = fmt.Errorf("%w (%w)", err, lost)
	}
	return runs, err
}
