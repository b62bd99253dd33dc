package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vmferry/vmferry/internal/sleep"
	"github.com/vmferry/vmferry/qmp"
)

// Run states that package qmp has no name for.
const (
	stateFinishMigrate = "finish-migrate" // paused by a migration that has not ended
	stateSuspended     = "suspended"
)

// savableStates are the run states that QEMU migrates from. It does not migrate
// from postmigrate: see refusePostmigrate.
var savableStates = []string{
	qmp.StateRunning, qmp.StatePaused, qmp.StatePrelaunch, stateSuspended, "shutdown", "io-error", "guest-panicked", "internal-error", "watchdog",
}

// recovery says how to bring a machine back to the state that it was in. The process
// that saves does so, or its guard, which gets the recovery as JSON: see readRecovery.
type recovery struct {
	// Monitor opens another monitor if the one of the save has ended.
	Monitor qmp.Opener `json:"monitor"`
	// Ran says that the machine ran when QEMU was last asked before the end of the
	// migration.
	Ran bool `json:"ran"`
	// Stopped says that the save itself may have paused the machine before the
	// migration.
	Stopped bool `json:"stopped,omitempty"`
	// Saved is the run state in the stream, "" before the stream has brought it. It
	// is the machine's state at the end: since QEMU was last asked, the guest can
	// have powered off, and a management program can have paused the machine.
	Saved string `json:"saved,omitempty"`
	// KeepPaused leaves a machine paused if the migration paused it.
	KeepPaused bool `json:"keep_paused,omitempty"`
	// Before holds the migration settings to restore.
	Before settings `json:"before"`
	// Dir names the directory of the socket; nil while there is none.
	Dir *dirIdentity `json:"dir,omitempty"`
}

// live tells whether a machine in that state runs, or is suspended and can be woken.
func live(state string) bool { return state == qmp.StateRunning || state == stateSuspended }

// ranAtPause tells whether the machine ran when the migration paused it.
func (r *recovery) ranAtPause() bool {
	switch {
	case r.Saved == "":
		return r.Ran
	case r.Stopped && r.Saved == qmp.StatePaused:
		return true
	}
	return live(r.Saved)
}

// run ends a migration that is under way, brings the machine back to its state, and
// restores the settings, in that order: a machine that runs with other settings is
// better than one that does not run.
func (r *recovery) run(ctx context.Context, vm *qmp.Machine) error {
	err := endMigration(ctx, vm)
	if err == nil {
		err = r.restoreRunState(ctx, vm)
	}
	if err == nil {
		err = r.restoreSettings(ctx, vm)
	}
	return err
}

// restoreSettings waits until QEMU has cleaned the migration up, and then restores
// the settings.
func (r *recovery) restoreSettings(ctx context.Context, vm *qmp.Machine) error {
	if err := vm.AwaitMigrationCleanup(ctx); err != nil {
		return fmt.Errorf("waiting for QEMU to clean the migration up: %w", err)
	}
	return r.Before.restore(ctx, vm)
}

// endMigration cancels a migration that is under way, and returns when it has ended.
func endMigration(ctx context.Context, vm *qmp.Machine) error {
	for cancelled := false; ; {
		m, err := vm.QueryMigrate(ctx)
		if err != nil {
			return err
		}
		if m.Status == "" || m.Status == qmp.MigrationNone || m.Ended() {
			return nil
		}
		if !cancelled {
			if err := vm.MigrateCancel(ctx); err != nil {
				return err
			}
			cancelled = true
		}
		if err := sleep.For(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("the migration is %q: %w", m.Status, err)
		}
	}
}

// runStateInterval is the time between two queries of the run state of a machine that
// waits: each extends its pause.
const runStateInterval = time.Millisecond

// restoreRunState lets a machine run on if it ran and the migration or the save paused
// it. It leaves a machine as it is that another program paused, or that powered off,
// panicked or failed.
func (r *recovery) restoreRunState(ctx context.Context, vm *qmp.Machine) error {
	for resumed := false; ; {
		s, err := vm.QueryStatus(ctx)
		if err != nil {
			return err
		}
		resume := false
		switch s.Status {
		case qmp.StatePostmigrate:
			resume = r.ranAtPause() && !r.KeepPaused
		case qmp.StatePaused:
			resume = r.Stopped && r.ranAtPause() && !r.KeepPaused
		case stateFinishMigrate:
			if err := sleep.For(ctx, runStateInterval); err != nil {
				return fmt.Errorf("the machine is %q: %w", s.Status, err)
			}
			continue
		}
		if !resume {
			return nil
		}
		if resumed { // cont had no effect; mostly the next question shows that it had
			if err := sleep.For(ctx, runStateInterval); err != nil {
				return fmt.Errorf("the machine is %q: %w", s.Status, err)
			}
		}
		if err := vm.Cont(ctx); err != nil {
			return fmt.Errorf("letting the machine run on: %w", err)
		}
		resumed = true
	}
}

// checkSavable refuses a machine in a state that QEMU does not migrate from.
func checkSavable(vm *qmp.Machine, state string) error {
	switch {
	case state == qmp.StatePostmigrate:
		return refusePostmigrate(vm.Version())
	case !slices.Contains(savableStates, state):
		return fmt.Errorf("%w: the machine is %q (want one of %q)", ErrState, state, savableStates)
	}
	return nil
}

// refusePostmigrate explains that QEMU does not migrate a machine that an earlier
// migration has paused: the destination of that migration may run it.
func refusePostmigrate(v qmp.Version) error {
	err := fmt.Errorf("%w: an earlier migration paused the machine (a save with --stay-paused, or a migration by another program), and QEMU does not migrate the machine again before it has run (QMP: cont)", ErrState)
	if !keepsState(v) {
		err = fmt.Errorf("%w; QEMU %v leaves a paused machine in this state too, so a paused machine can be saved once; QEMU 8.1 and later leave it paused, and it can be saved again", err, v)
	}
	return err
}

// keepsState tells whether this QEMU puts a machine back into its state when a
// migration fails. Before 8.1, QEMU leaves a machine that did not run in postmigrate.
func keepsState(v qmp.Version) bool { return v.AtLeast(8, 1) }

// errNotRunning makes the migration of a machine that does not run fail on purpose,
// after all data has arrived. QEMU then leaves the machine in its state. Otherwise QEMU
// would leave it in postmigrate: QEMU does not migrate a machine from that state, and
// cont would run a machine that has powered off.
var errNotRunning = errors.New("the machine does not run: vmferry ends its migration after all data has arrived, so that QEMU leaves the machine as it is")
