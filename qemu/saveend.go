package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmferry/vmferry/qmp"
)

// restoreMachine brings the machine back to its state, or leaves it paused for
// StayPaused, and restores QEMU's settings.
func (s *save) restoreMachine(ctx context.Context, saved *Saved) error {
	if err := s.updateRecovery(func(r *recovery) { r.KeepPaused = s.opts.StayPaused }); err != nil {
		return err
	}
	short, cancel := detached(ctx)
	defer cancel()
	if err := s.recovery.restoreRunState(short, s.vm); err != nil {
		return err
	}
	if s.recovery.ranAtPause() {
		saved.Paused = time.Since(s.paused)
		if !s.recovery.Stopped {
			saved.Paused += saved.Downtime
		}
	}
	if err := s.recovery.restoreSettings(short, s.vm); err != nil {
		return err
	}
	s.recovered = true
	status, err := s.vm.QueryStatus(short)
	if err != nil {
		return err
	}
	saved.RunState = status.Status
	return nil
}

// recoverMachine brings the machine back to its state after a save that failed with
// err. It returns err, and with it the error of its own if it fails.
func (s *save) recoverMachine(ctx context.Context, err error) error {
	s.recovered = true
	short, cancel := detached(ctx)
	defer cancel()
	recoverErr := s.recovery.run(short, s.vm)
	if errors.Is(recoverErr, qmp.ErrClosed) {
		// QEMU may live although the monitor has ended.
		recoverErr = s.recovery.reopenAndRun(short)
	}
	switch {
	case recoverErr == nil:
		return err
	case errors.Is(recoverErr, ErrGone):
		return fmt.Errorf("%w: %s (the save: %v)", ErrGone, s.describeDeath(), err)
	}
	s.recoveryFailed = true
	what := "after that, the save could not bring the machine back to its state"
	if s.guard != nil {
		what += fmt.Sprintf(" (the guard process tries again for %v)", guardPatience)
	}
	return errors.Join(err, fmt.Errorf("%s: %w (ask the machine for its state: QMP query-status; cont makes it run)", what, recoverErr))
}

// describeDeath says whether QEMU's process has ended.
func (s *save) describeDeath() string {
	const unknown = "its monitor is closed, and the machine's state is not known"
	if s.pid <= 0 {
		return unknown
	}
	// QEMU's sockets are closed a little before its process has ended.
	for range 20 {
		if !alive(s.pid) {
			return fmt.Sprintf("QEMU died: its process %d has ended, and the machine with it; QEMU's log may say why", s.pid)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Sprintf("%s; its process %d still runs", unknown, s.pid)
}

func (s *save) startGuard() (err error) {
	if s.opts.Guard == nil {
		return nil
	}
	s.guard, err = startGuard(s.opts.Guard, &s.recovery)
	return err
}

// updateRecovery changes the recovery, in this process and in the guard.
func (s *save) updateRecovery(change func(*recovery)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.recovery)
	if s.guard == nil {
		return nil
	}
	return s.guard.sendRecovery(&s.recovery)
}

func (s *save) endGuard() {
	if s.guard == nil {
		return
	}
	if s.recoveryFailed {
		s.guard.takeOver()
		return
	}
	if err := s.guard.Disarm(); err != nil {
		s.opts.Logger.Warn("ending the guard process", "error", err)
	}
}

func (s *save) releaseSockets() {
	if s.sockets != nil {
		s.sockets.release()
	}
}

func (s *save) removeSocketDir() {
	if err := s.dir.remove(); err != nil {
		s.opts.Logger.Warn("cleaning up after a save", "error", err)
	}
}
