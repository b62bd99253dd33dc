package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmferry/vmferry/qmp"
)

// recoverMachine brings the machine back to its state after a task that failed with
// err. It returns err, and with it the error of its own if it fails.
func (o *outgoing) recoverMachine(ctx context.Context, err error) error {
	o.recovered = true
	short, cancel := detached(ctx)
	defer cancel()
	recoverErr := o.recovery.run(short, o.vm)
	if errors.Is(recoverErr, qmp.ErrClosed) {
		// QEMU may live although the monitor has ended.
		recoverErr = o.recovery.reopenAndRun(short)
	}
	switch {
	case recoverErr == nil:
		return err
	case errors.Is(recoverErr, ErrGone):
		return fmt.Errorf("%w: %s (the %s: %v)", ErrGone, o.describeDeath(), o.task.noun, err)
	}
	o.recoveryFailed = true
	what := "after that, the " + o.task.noun + " could not bring the machine back to its state"
	if o.guard != nil {
		what += fmt.Sprintf(" (the guard process tries again for %v)", guardPatience)
	}
	return errors.Join(err, fmt.Errorf("%s: %w (ask the machine for its state: QMP query-status; cont makes it run)", what, recoverErr))
}

// describeDeath says whether QEMU's process has ended.
func (o *outgoing) describeDeath() string {
	const unknown = "its monitor is closed, and the machine's state is not known"
	if o.pid <= 0 {
		return unknown
	}
	// QEMU's sockets are closed a little before its process has ended.
	for range 20 {
		if !alive(o.pid) {
			return fmt.Sprintf("QEMU died: its process %d has ended, and the machine with it; QEMU's log may say why", o.pid)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Sprintf("%s; its process %d still runs", unknown, o.pid)
}

// startGuard starts the guard process, which the caller ends with endGuard. The process
// starts while this one asks QEMU what has to be known before the first change.
func (o *outgoing) startGuard() (err error) {
	if o.guardBy == nil {
		return nil
	}
	o.guard, err = startGuard(o.guardBy)
	return err
}

// armGuard gives the guard the recovery, and returns when the guard watches.
func (o *outgoing) armGuard() error {
	if o.guard == nil {
		return nil
	}
	err := o.guard.arm(&o.recovery)
	if err != nil {
		o.guard.Disarm() // whose error is of less use
		o.guard = nil
	}
	return err
}

// updateRecovery changes the recovery, in this process and in the guard.
func (o *outgoing) updateRecovery(change func(*recovery)) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(&o.recovery)
	if o.guard == nil {
		return nil
	}
	return o.guard.sendRecovery(&o.recovery)
}

// endGuard ends the guard, if there is one.
func (o *outgoing) endGuard() {
	guard := o.guard
	if guard == nil {
		return
	}
	o.guard = nil
	if o.recoveryFailed {
		guard.takeOver()
		return
	}
	if err := guard.Disarm(); err != nil {
		o.logger.Warn("ending the guard process", "error", err)
	}
}

func (o *outgoing) releaseSockets() {
	if o.sockets != nil {
		o.sockets.release()
	}
}

func (o *outgoing) removeSocketDir() {
	if o.dir == nil {
		return
	}
	if err := o.dir.remove(); err != nil {
		o.logger.Warn("cleaning up after a "+o.task.noun, "error", err)
	}
}
