package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmferry/vmferry/qemu/agreement"
	"github.com/vmferry/vmferry/qmp"
)

const (
	// migrateSending names what QEMU does in a migration.
	migrateSending = "migrate the machine"
	// linkGrace is how long QEMU may take to end a migration one of whose connections
	// has ended.
	linkGrace = 500 * time.Millisecond
	// loadedGrace is how long the destination may take to say that it has loaded the
	// machine, after QEMU's return path has said so.
	loadedGrace = 30 * time.Second
)

// watch follows the migration at QEMU and at the destination until the machine is paused
// here and loaded there. After an error the migration has ended at QEMU.
func (m *migrate) watch(ctx context.Context, stops *qmp.Subscription) error {
	changes := m.vm.Subscribe("MIGRATION")
	defer changes.Close()
	var late <-chan time.Time
	stopped, changed := stops.Events(), changes.Events()
	for {
		select {
		case e := <-m.peer.events():
			switch {
			case e.linkEnded != nil && late == nil && !m.endsSoon(ctx):
				return m.giveUp(ctx, m.peerReason(e.linkEnded))
			case e.err != nil:
				return m.giveUp(ctx, e.err)
			case e.loaded != "":
				m.loadedAs = e.loaded
			}
		case <-ctx.Done():
			return m.giveUp(ctx, context.Cause(ctx))
		case <-late:
			return fmt.Errorf("the destination has not said within %v that it has loaded the machine, although QEMU has", loadedGrace)
		case e, open := <-stopped:
			if stopped = nil; open && m.paused.IsZero() {
				m.paused = latestOf(e.Time)
			}
		case _, open := <-changed:
			if !open {
				changed = nil
			}
		case <-time.After(watchInterval):
		}
		if late == nil {
			if err := m.refreshStatus(ctx); err != nil {
				if ctx.Err() != nil {
					continue // to give up
				}
				return err
			}
		}
		switch {
		case m.last.Status == qmp.MigrationCompleted:
			if late == nil {
				m.completed, late = time.Now(), time.After(loadedGrace)
			}
			if m.loadedAs != "" {
				return m.checkPaused(ctx)
			}
			continue
		case m.last.Ended():
			return m.failure()
		}
		if err := m.steer(ctx); err != nil {
			return m.giveUp(ctx, err)
		}
	}
}

// latestOf returns the time of an event, as far as this host's clock agrees with it.
func latestOf(event time.Time) time.Time {
	now := time.Now()
	if d := now.Sub(event); d < 0 || d > time.Second {
		return now
	}
	return now.Add(-now.Sub(event)) // with the monotonic clock
}

// steer does what a migration that is under way needs: the command at the pause, and
// what Diverging says after MaxRounds.
func (m *migrate) steer(ctx context.Context) error {
	if err := m.checkPaused(ctx); errors.Is(err, errResumed) {
		return err
	}
	if m.last.Status == qmp.MigrationPreSwitchover {
		if m.atSwitchover {
			return nil
		}
		m.atSwitchover = true
		m.report("at-pause")
		if err := m.runAtPause(ctx, atPauseCommand{command: m.opts.AtPause, timeout: m.opts.AtPauseTimeout}); err != nil {
			return err
		}
		m.vm.SetAnswerTimeout(0)
		if err := m.vm.MigrateContinue(ctx); err != nil {
			return fmt.Errorf("letting the migration go on after the command at the pause: %w", err)
		}
		return nil
	}
	m.report("memory")
	if m.pushed || m.last.Status != qmp.MigrationActive || m.rounds() <= uint64(m.opts.MaxRounds) {
		return nil
	}
	m.pushed = true
	if m.opts.Diverging == DivergingGiveUp {
		return m.diverges()
	}
	m.raiseDowntimeLimit(ctx)
	return nil
}

// diverges returns the error of a machine whose memory does not converge.
func (m *migrate) diverges() error {
	ram := m.last.RAM
	dirty := float64(ram.DirtyPagesRate) * float64(max(ram.PageSize, 1))
	const mib = 1 << 20
	return fmt.Errorf("%w: after %d rounds it writes %.1f MiB/s and %.1f MiB/s are sent; %.1f MiB remain, which would pause it for about %v (raise --downtime-limit or --bandwidth, or choose --diverging throttle or stop)",
		ErrDiverges, m.opts.MaxRounds, dirty/mib, ram.Mbps*1e6/8/mib, float64(ram.Remaining)/mib, m.last.ExpectedDowntime.Duration().Round(time.Millisecond))
}

// giveUp ends the migration at QEMU, and then its connections. It returns err.
func (m *migrate) giveUp(ctx context.Context, err error) error {
	m.cancel(ctx, func() { m.peer.stop(err) })
	return err
}

// endsSoon tells whether QEMU ends the migration by itself, after one of its connections
// has ended.
func (m *migrate) endsSoon(ctx context.Context) bool {
	short, cancel := context.WithTimeout(ctx, linkGrace)
	defer cancel()
	for short.Err() == nil {
		if m.refreshStatus(short) != nil || m.last.Ended() {
			break
		}
		select {
		case <-short.Done():
		case <-time.After(watchInterval):
		}
	}
	return m.last.Ended()
}

// peerReason waits a moment for the destination's reason for a failure that this side has
// seen, and returns both.
func (m *migrate) peerReason(err error) error {
	late := time.After(failedGrace)
	for {
		select {
		case e := <-m.peer.events():
			if e.err != nil {
				return fmt.Errorf("%w (at the source: %w)", e.err, err)
			}
		case <-late:
			return err
		}
	}
}

// failure returns the error of a migration that failed at QEMU, with the destination's
// reason.
func (m *migrate) failure() error {
	err := errorOfMigration(m.last, migrateSending)
	if cannotConnect(m.last.ErrorDesc) {
		err = fmt.Errorf("%w: %s", err, adviceOnSocket(m.vm))
	}
	return m.peerReason(err)
}

// handOver hands the machine over: from run on, it is the destination's, until the
// destination says that it stays here.
func (m *migrate) handOver(ctx context.Context, result *MigrateResult) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	// A machine that powered off or failed meanwhile is in that state at the destination.
	run := m.recovery.ranAtPause() && (m.loadedAs == qmp.StatePaused || live(m.loadedAs))
	if err := m.updateRecovery(func(r *recovery) { r.KeepPaused = true }); err != nil {
		return err
	}
	outcome := m.peer.run(ctx, run)
	switch outcome.Outcome {
	case agreement.Stays:
		if err := m.updateRecovery(func(r *recovery) { r.KeepPaused = false }); err != nil {
			return err
		}
		return fmt.Errorf("the destination does not run the machine: %s", orUnknown(outcome.Reason))
	case agreement.Unknown:
		return fmt.Errorf("%w: %s", ErrUndecided, orUnknown(outcome.Reason))
	}
	now := time.Now()
	result.Handover = now.Sub(m.completed)
	if run && !m.paused.IsZero() {
		result.Paused = now.Sub(m.paused)
	}
	result.Runs, result.RunState, result.Link = atDestination, outcome.RunState, m.peer.linkBytes()
	if ram := m.last.RAM; ram != nil {
		result.Rounds, result.Sent, result.Pages, result.Zero = ram.DirtySyncCount, ram.Transferred, ram.Normal, ram.Duplicate
	}
	m.report("finish")
	m.restoreSettingsOfSource(ctx, result)
	return nil
}

// restoreSettingsOfSource restores the settings of a source whose machine is the
// destination's, and leaves the machine paused. The migration has succeeded, so a failure
// is a warning.
func (m *migrate) restoreSettingsOfSource(ctx context.Context, result *MigrateResult) {
	m.recovered = true
	short, cancel := detached(ctx)
	defer cancel()
	if err := m.recovery.restoreSettings(short, m.vm); err != nil {
		m.logger.Warn("putting the migration settings of the source's QEMU back", "error", err)
	}
	// QEMU before 8.0 knows the downtime a moment after the end.
	if last, err := m.vm.QueryMigrate(short); err == nil {
		result.Downtime = last.Downtime.Duration()
	}
	status, err := m.vm.QueryStatus(short)
	if err != nil {
		m.logger.Warn("asking the source's QEMU for its state", "error", err)
	}
	result.SourceState = status.Status
}

// explain adds to the error of a migration where the machine is.
func (m *migrate) explain(ctx context.Context, err error) error {
	if errors.Is(err, ErrGone) || m.recoveryFailed {
		return err
	}
	short, cancel := detached(ctx)
	defer cancel()
	status, statusErr := m.vm.QueryStatus(short)
	switch {
	case errors.Is(err, ErrUndecided):
		return fmt.Errorf("%w; the source is left paused (%s). Ask the destination's QEMU (QMP: query-status): if the machine runs there or has run, end the source's QEMU (QMP: quit); if not, end the destination's QEMU first, and then let the source run (QMP: cont)", err, status.Status)
	case statusErr != nil:
		return fmt.Errorf("%w; the machine is at the source, which does not say whether it runs: %w", err, statusErr)
	case live(status.Status):
		return fmt.Errorf("%w; the source runs", err)
	}
	return fmt.Errorf("%w; the machine is at the source and does not run, as before (%s)", err, status.Status)
}
