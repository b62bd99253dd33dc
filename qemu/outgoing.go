package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/vmferry/vmferry/internal/termtext"
	"github.com/vmferry/vmferry/qmp"
)

// taskName names what is done to a machine, in messages.
type taskName struct {
	noun, participle string
	// failed says what a failure means.
	failed string
}

var (
	saving    = taskName{noun: "save", participle: "saved", failed: "there is no snapshot"}
	migrating = taskName{noun: "migration", participle: "migrated", failed: "the machine stays here"}
)

// outgoing is a QEMU whose machine is sent: by a save to this process, by a migration to
// another QEMU. The fields up to logger are set by its owner.
type outgoing struct {
	task      taskName
	monitor   qmp.Opener
	guardBy   []string // the command that runs RunGuard; nil is no guard
	socketDir string
	stall     time.Duration // a StallTimeout
	// alwaysLive lets the machine run although QEMU is known to lose writes.
	alwaysLive bool
	logger     *slog.Logger

	vm        *qmp.Machine
	pid       int        // QEMU's process, 0 if it is not known
	described *described // the machine's hardware
	dir       *socketDir
	guard     *Guard          // nil without one
	sockets   *lingerListener // of QEMU's connections, nil before there are any

	// begun says that settings may have been changed, recovered that all is done for the
	// machine. recoveryFailed says that this process could not bring the machine back
	// to its state. The guard then does.
	begun, recovered, recoveryFailed bool
	// recovery is what has to be done for the machine when the task ends, in any way.
	// Several goroutines change it: see updateRecovery.
	mu       sync.Mutex
	recovery recovery

	paused     time.Time   // since when the machine is paused
	pauseWatch *pauseWatch // of a machine that must not run during the task; nil otherwise
	last       qmp.Migration
}

// open opens the monitor, which the caller closes.
func (o *outgoing) open(ctx context.Context) (qmp.Monitor, error) {
	monitor, err := qmp.OpenWithin(ctx, o.monitor, 0)
	if err != nil {
		return nil, err
	}
	o.vm = qmp.NewMachine(monitor)
	o.vm.SetAnswerTimeout(answerTimeout(o.stall))
	if cred, err := o.vm.Process(); err == nil {
		o.pid = cred.PID
	}
	return monitor, nil
}

// checkState refuses a machine that cannot be sent in its state, before any change.
func (o *outgoing) checkState(ctx context.Context) error {
	status, err := o.vm.QueryStatus(ctx)
	if err != nil {
		return err
	}
	if err := checkSavable(o.vm, status.Status); err != nil {
		return err
	}
	o.recovery.Ran = live(status.Status)
	m, err := o.vm.QueryMigrate(ctx)
	if err != nil {
		return err
	}
	if m.Status != "" && m.Status != qmp.MigrationNone && !m.Ended() {
		return fmt.Errorf("%w: a migration is under way (%s)", ErrState, m.Status)
	}
	if len(m.BlockedReasons) > 0 {
		return fmt.Errorf("%w: QEMU refuses to migrate the machine: %s", ErrUnable, termtext.Text(strings.Join(m.BlockedReasons, "; ")))
	}
	// An earlier migration may have ended a moment ago.
	short, cancel := context.WithTimeoutCause(ctx, cleanupTime, fmt.Errorf("%w: QEMU has not cleaned up an earlier migration after %v", ErrState, cleanupTime))
	defer cancel()
	return o.vm.AwaitMigrationCleanup(short)
}

// begin arms the guard, makes the socket's directory and changes the settings. After
// begin, also if it fails, the caller calls finish.
func (o *outgoing) begin(ctx context.Context, p *plan) error {
	o.recovery.Monitor, o.recovery.Before = o.monitor, p.before
	// The guard watches before the first change.
	if err := o.armGuard(); err != nil {
		return err
	}
	var err error
	if o.dir, err = makeSocketDir(o.vm, o.socketDir); err != nil {
		return err
	}
	o.begun = true
	dir, err := o.dir.identity()
	if err != nil {
		return err
	}
	if err := o.updateRecovery(func(r *recovery) { r.Dir = dir }); err != nil {
		return err
	}
	if err := p.apply(ctx, o.vm); err != nil {
		return err
	}
	return o.pauseIfWritesGetLost(ctx)
}

// finish brings the machine back to its state if that has not been done, and frees what
// begin made. It returns err, and with it the error of its own if it fails.
func (o *outgoing) finish(ctx context.Context, err error) error {
	if o.pauseWatch != nil {
		o.pauseWatch.close()
	}
	if o.begun && !o.recovered {
		err = o.recoverMachine(ctx, err)
	}
	o.releaseSockets() // when the migration has ended
	o.removeSocketDir()
	o.endGuard()
	return err
}

// listen listens for QEMU's connections.
func (o *outgoing) listen() (*lingerListener, error) {
	unixListener, err := o.dir.listen()
	if err != nil {
		return nil, err
	}
	o.sockets, err = lingerOn(unixListener, o.guard)
	return o.sockets, err
}

// losesWrites says why QEMU does not send this machine correctly while the machine runs;
// "" if it does. Without KVM, QEMU before 9.0 stops to track the writes to a block
// after it has read the block's dirty pages, if the block is a multiple of 64 pages,
// as most are. So QEMU never sends some writes of a running guest, in its own
// migrations too. QEMU from 9.0 on does so with some blocks: see forgetsWrites. With
// KVM the kernel tracks the writes.
func (o *outgoing) losesWrites() string {
	switch {
	case o.described.hardware.KVM:
		return ""
	case o.vm.Version().Major < 9:
		return "without KVM, QEMU before 9.0 loses writes of a machine that runs"
	case o.described.forgetsWrites():
		return "without KVM, QEMU from 9.0 on loses writes of a machine that runs, or aborts, if its memory has several blocks or is not the first (KVM helps, or a single memory backend that comes first on the command line)"
	}
	return ""
}

// pauseIfWritesGetLost pauses a machine that QEMU does not send correctly while the
// machine runs.
func (o *outgoing) pauseIfWritesGetLost(ctx context.Context) error {
	why := o.losesWrites()
	if why == "" || o.alwaysLive {
		return nil
	}
	if !o.recovery.Ran {
		o.pauseWatch = watchPause(o.vm) // nothing else may let it run before the end
		return nil
	}
	o.logger.Warn("the machine is paused while it is "+o.task.participle+": "+why, "qemu", fmt.Sprint(o.vm.Version()))
	if err := o.updateRecovery(func(r *recovery) { r.Stopped = true }); err != nil {
		return err
	}
	o.paused = time.Now()
	if err := o.vm.Stop(ctx); err != nil {
		return err
	}
	o.pauseWatch = watchPause(o.vm)
	return nil
}

// checkPaused fails if a machine ran that must not run during the task, because QEMU
// loses its writes then. The task may have paused it, or another program before.
func (o *outgoing) checkPaused(ctx context.Context) error {
	if o.pauseWatch == nil {
		return nil
	}
	err := o.pauseWatch.check(ctx)
	if errors.Is(err, errResumed) {
		return fmt.Errorf("%w while it had to stay paused: this QEMU loses writes of a machine that runs while it is %s, so %s (do not let it run before the %s has ended)", err, o.task.participle, o.task.failed, o.task.noun)
	}
	return err
}

func (o *outgoing) rounds() uint64 {
	if o.last.RAM == nil {
		return 0
	}
	return o.last.RAM.DirtySyncCount
}

// refreshStatus asks QEMU for the migration's status and the machine's run state.
func (o *outgoing) refreshStatus(ctx context.Context) error {
	m, err := o.vm.QueryMigrate(ctx)
	if err == nil {
		o.last = m
		err = o.recordRunState(ctx)
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w while it was %s: %w", ErrGone, o.task.participle, err)
	}
	return err
}

// recordRunState records whether the machine runs. The guard uses the record if this
// process is killed before the run state arrives in the stream.
func (o *outgoing) recordRunState(ctx context.Context) error {
	status, err := o.vm.QueryStatus(ctx)
	if err != nil {
		return err
	}
	o.mu.Lock()
	known := o.recovery.Stopped || o.recovery.Ran == live(status.Status)
	o.mu.Unlock()
	if known || status.Status == stateFinishMigrate || status.Status == qmp.StatePostmigrate {
		return nil
	}
	return o.updateRecovery(func(r *recovery) { r.Ran = live(status.Status) })
}

// raiseDowntimeLimit makes QEMU pause the machine and send the remaining pages.
func (o *outgoing) raiseDowntimeLimit(ctx context.Context) {
	o.logger.Warn("the machine writes to its memory faster than it can be "+o.task.participle+"; it is paused while the remaining pages are sent", "rounds", o.rounds())
	o.setDowntimeLimit(ctx, 2000*time.Second)
}

// setDowntimeLimit changes the limit of a migration that is under way.
func (o *outgoing) setDowntimeLimit(ctx context.Context, limit time.Duration) {
	if err := o.vm.SetMigrateParameters(ctx, qmp.MigrateParameters{DowntimeLimit: new(qmp.Milliseconds(limit.Milliseconds()))}); err != nil {
		o.logger.Warn("raising the downtime limit", "error", err)
	}
}

// cancel ends the migration at QEMU, and then calls stopHere, which ends it in this
// process. The order matters: QEMU would take connections that were closed first for a
// failure. QEMU then waits for the end of the return path.
func (o *outgoing) cancel(ctx context.Context, stopHere func()) {
	short, cancel := detached(ctx)
	defer cancel()
	o.vm.SetAnswerTimeout(answerTimeout(o.stall)) // QEMU may be why
	err := o.vm.MigrateCancel(short)
	stopHere()
	if err == nil {
		err = endMigration(short, o.vm)
	}
	if err != nil && !errors.Is(err, qmp.ErrClosed) {
		o.logger.Warn("cancelling the migration", "error", err)
	}
}
