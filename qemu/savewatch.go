package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmferry/vmferry/internal/cause"
	"github.com/vmferry/vmferry/qmp"
)

// watchInterval is the most time between two queries of the migration's status. An event
// of the migration makes the next one come at once.
const watchInterval = 10 * time.Millisecond

// watch follows the migration at QEMU and in this process until both have ended.
func (s *save) watch(ctx context.Context, r *receiving) error {
	queryCtx, stop := r.untilEnd(ctx)
	defer stop()
	for {
		select {
		case <-r.done:
			return s.awaitSource(ctx, r)
		case <-ctx.Done():
			s.giveUp(ctx, r)
			return context.Cause(ctx)
		case e := <-s.changes.Events():
			s.noteChange(e)
		case <-time.After(watchInterval):
		}
		err := s.refreshStatus(queryCtx)
		if queryCtx.Err() != nil {
			continue // to give up, or because the receiving has ended
		}
		if err != nil {
			r.stop(err)
			return err
		}
		if s.last.Ended() {
			return s.awaitReceiving(ctx, r)
		}
		if err := s.checkPaused(queryCtx); errors.Is(err, errResumed) {
			s.giveUp(ctx, r)
			return err
		}
		s.report("memory")
		s.steer(queryCtx)
	}
}

// steer raises QEMU's downtime limit as downtimeSteps says, and makes QEMU pause the
// machine after MaxRounds.
func (s *save) steer(ctx context.Context) {
	if s.last.RAM == nil || s.pushed {
		return
	}
	if s.rounds() > uint64(s.opts.MaxRounds) {
		s.pushed = true
		s.raiseDowntimeLimit(ctx)
		return
	}
	if s.downtime.observe(s.rounds(), s.last.RAM.Remaining, time.Now()) {
		s.opts.Logger.Debug("the downtime limit is raised", "to", s.downtime.limit, "round", s.rounds(), "remaining", s.last.RAM.Remaining)
		s.setDowntimeLimit(ctx, s.downtime.limit)
	}
}

// noteChange takes the time of the pause from QEMU's events.
func (s *save) noteChange(e qmp.Event) {
	if e.Name == "STOP" && !s.recovery.Stopped {
		s.paused = latestOf(e.Time)
	}
}

// recordPause records the time at which the machine was paused.
func (s *save) recordPause() {
	for waiting := true; waiting; {
		select {
		case e, open := <-s.changes.Events():
			s.noteChange(e)
			waiting = open
		default:
			waiting = false
		}
	}
	s.completed = time.Now()
	if s.paused.IsZero() { // the monitor has no events
		s.paused = s.completed.Add(-s.last.Downtime.Duration())
	}
	s.report("paused")
}

// awaitSource waits until the migration has ended at QEMU, after the receiving has
// ended, and returns the result of both. If the receiving failed for a reason of its
// own, awaitSource ends the migration at QEMU.
func (s *save) awaitSource(ctx context.Context, r *receiving) error {
	if r.err != nil && !r.gaveUp && !cause.ConnectionEnded(r.err) {
		s.giveUp(ctx, r)
		return r.err
	}
	ended, err := s.awaitEnd(ctx)
	switch {
	case err != nil:
		return cause.Of(ctx, r.err, err, doing)
	case ended:
		return s.outcome(ctx, r)
	}
	return cause.Of(ctx, r.err, fmt.Errorf("%w: the connections are closed, and QEMU still reports the migration as %q after %v", ErrState, s.last.Status, cleanupTime), doing)
}

// awaitEnd waits until the migration has ended at QEMU, after its connections have ended.
// It is false if QEMU does not end it within cleanupTime.
func (s *save) awaitEnd(ctx context.Context) (ended bool, err error) {
	short, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	changes := s.changes.Events()
	for {
		if err := s.refreshStatus(short); err != nil {
			return false, err
		}
		if s.last.Ended() {
			return true, nil
		}
		select {
		case <-short.Done():
			return false, nil
		case e, open := <-changes:
			if s.noteChange(e); !open {
				changes = nil // the next query fails
			}
		case <-time.After(watchInterval):
		}
	}
}

// failedGrace is how long the connections of a migration that failed at QEMU may stay
// open.
const failedGrace = 2 * time.Second

// awaitReceiving waits until the receiving has ended, after the migration has ended at
// QEMU. If the migration completed, the last data may not have arrived yet.
func (s *save) awaitReceiving(ctx context.Context, r *receiving) error {
	var late <-chan time.Time
	if s.last.Status != qmp.MigrationCompleted {
		late = time.After(failedGrace)
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		r.stop(context.Cause(ctx))
	case <-late:
		r.stop(errorOfMigration(s.last, sending))
	}
	return s.outcome(ctx, r)
}
