package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/vmferry/vmferry/internal/sleep"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qemu/agreement"
	"github.com/vmferry/vmferry/qmp"
)

// destination is a QEMU that takes over the machine of another QEMU. Accept drives it for
// a source on another host, and Migrate for one on the same host. The fields up to
// logger are set by its owner.
type destination struct {
	incoming
	monitor   qmp.Opener
	tool      string
	socketDir string
	stall     time.Duration
	logger    *slog.Logger

	opened qmp.Monitor
	side   *side
	plan   *plan
	// set says that settings may have been changed.
	set bool
	// silent says that QEMU has stopped answering, and is not asked any more.
	silent bool
	// prepared says that QEMU has been set up for the migration, and takes no other one.
	prepared bool

	mu   sync.Mutex
	dir  *socketDir
	left int // connections that QEMU still takes
}

// open opens the monitor of a QEMU that may just be starting, and checks that the QEMU
// waits for a machine. The caller calls finish, also after an error.
func (d *destination) open(ctx context.Context, patience time.Duration) (err error) {
	d.noun, d.like = "migration", "the source's QEMU"
	if d.opened, err = qmp.OpenWithin(ctx, d.monitor, patience); err != nil {
		return err
	}
	d.vm = qmp.NewMachine(d.opened)
	d.vm.SetAnswerTimeout(answerTimeout(d.stall))
	return d.checkState(ctx)
}

// compareWith compares this QEMU with the source's description, and changes nothing.
func (d *destination) compareWith(ctx context.Context, source *agreement.Description, channels int) (*comparison, error) {
	err := d.checkState(ctx)
	if err != nil {
		return nil, err
	}
	if d.side, err = describeSide(ctx, d.vm, d.tool); err != nil {
		return nil, err
	}
	d.plan, err = makePlan(ctx, d.vm, migrationSettings{
		channels: channels, method: multifd.None, returnPath: true, capabilities: []string{"late-block-activate"},
	})
	if err != nil {
		return nil, err
	}
	return d.side.compareSource(source, d.vm.Version()), nil
}

// prepare sets the destination up, and makes QEMU listen on a socket of its own. QEMU
// loads the machine and leaves it paused.
func (d *destination) prepare(ctx context.Context) (err error) {
	d.set = true
	if err := d.plan.apply(ctx, d.vm); err != nil {
		return err
	}
	if d.dir, err = makeSocketDir(d.vm, d.socketDir); err != nil {
		return err
	}
	if err := d.dir.handOver(); err != nil {
		return err
	}
	// Before the incoming migration, stop only says that the machine is paused after it.
	if err := d.vm.Stop(ctx); err != nil {
		return err
	}
	d.prepared, d.left = true, d.plan.want.channels+1
	if err := d.listen(ctx, d.dir.address()); err != nil {
		if cannotConnect(err.Error()) {
			err = fmt.Errorf("%w: %s", err, adviceOnSocket(d.vm))
		}
		return fmt.Errorf("telling QEMU to wait for the migration: %w", err)
	}
	// QEMU does not always answer while it loads the machine.
	d.vm.SetAnswerTimeout(0)
	return nil
}

// dial connects to QEMU. After the last connection it removes the socket, so that the
// socket does not remain if this process is killed.
func (d *destination) dial(ctx context.Context) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left == 0 {
		return nil, errors.New("QEMU takes no further connection")
	}
	conn, err := d.dir.dial(ctx)
	if err != nil {
		return nil, err
	}
	if d.left--; d.left == 0 {
		d.removeDirLocked()
	}
	return conn, nil
}

func (d *destination) removeDirLocked() {
	if d.dir == nil {
		return
	}
	if err := d.dir.remove(); err != nil {
		d.logger.Warn("removing the socket that QEMU listened on", "error", err)
	}
}

// loaded waits until QEMU has loaded the machine, which is then paused.
func (d *destination) loaded(ctx context.Context) (string, error) {
	state, err := d.awaitLoaded(ctx)
	d.vm.SetAnswerTimeout(answerTimeout(d.stall))
	switch {
	case err != nil && ctx.Err() == nil:
		short, cancel := detached(ctx)
		defer cancel()
		err, _, _ = d.findCause(ctx, short, err)
	case err == nil && live(state):
		err = fmt.Errorf("%w: the machine is %q at the destination after it was loaded, and has to be paused (something else let it run: QMP cont)", ErrState, state)
	case err == nil:
		err = d.checkExports(ctx)
	}
	return state, err
}

// checkExports refuses a machine to run on disks that QEMU still exports, as for a mirror
// of the source's disks. QEMU reports a permission conflict, and lets the machine run
// without the permission to write to them.
func (d *destination) checkExports(ctx context.Context) error {
	exports, err := d.vm.QueryBlockExports(ctx)
	switch {
	case refusedByQEMU(err):
		return nil // before QEMU 5.2
	case err != nil:
		return err
	case len(exports) == 0:
		return nil
	}
	e := exports[0]
	return fmt.Errorf("%w: the destination's QEMU still exports the disk %q (%s export %q), so the machine could not write to it (end the export before the machine runs: at the pause, --at-pause, with QMP nbd-server-stop at the destination)", ErrState, e.Node, e.Type, e.ID)
}

// runMachine takes the machine over, and lets it run if run is set. Its outcome is final:
// after Stays, the machine does not run here.
func (d *destination) runMachine(ctx context.Context, run bool) agreement.Message {
	ctx, cancel := detached(ctx)
	defer cancel()
	var err error
	if run {
		err = d.vm.Cont(ctx)
	}
	status, statusErr := d.vm.QueryStatus(ctx)
	if errors.Is(statusErr, qmp.ErrClosed) {
		// QEMU may live although the monitor has ended.
		if monitor, openErr := qmp.OpenWithin(ctx, d.monitor, 0); openErr == nil {
			d.opened.Close()
			d.opened, d.vm = monitor, qmp.NewMachine(monitor)
			status, statusErr = d.vm.QueryStatus(ctx)
		}
	}
	outcome := agreement.Message{Type: agreement.TypeOutcome, Outcome: agreement.Runs, RunState: status.Status}
	switch {
	case statusErr == nil && (err == nil || live(status.Status)):
	case statusErr == nil && refusedByQEMU(err):
		outcome.Outcome, outcome.Reason = agreement.Stays, fmt.Sprintf("letting the machine run at the destination: %v", err)
	default:
		// QEMU may have let the machine run before it went away.
		outcome.Outcome, outcome.Reason = agreement.Unknown, errors.Join(err, statusErr).Error()
	}
	return outcome
}

// finish restores the settings and frees what was made.
func (d *destination) finish(ctx context.Context) {
	if d.opened == nil {
		return
	}
	defer d.opened.Close()
	d.mu.Lock()
	d.removeDirLocked()
	d.mu.Unlock()
	if !d.set || d.silent {
		return
	}
	short, cancel := detached(ctx)
	defer cancel()
	err := d.vm.AwaitMigrationCleanup(short)
	if err == nil {
		err = d.plan.before.restore(short, d.vm)
	}
	if err != nil && !errors.Is(err, qmp.ErrClosed) {
		d.logger.Warn("putting the migration settings of the destination's QEMU back", "error", err)
	}
}

// describeState says in which state the QEMU is, and what the user can do with it.
//
// The main thread of QEMU 10.0 waits forever for a channel that ends between two sync
// points, and QEMU then answers nothing more. Nothing short of the missing data ends
// that wait.
func (d *destination) describeState(ctx context.Context) string {
	short, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if !d.prepared {
		return "the destination's QEMU is as it was"
	}
	// QEMU ends a migration whose connections are closed a moment later.
	for range 20 {
		if m, err := d.vm.QueryMigrate(short); err != nil || m.Status == "" || m.Ended() {
			break
		}
		if sleep.For(short, 50*time.Millisecond) != nil {
			break
		}
	}
	status, err := d.vm.QueryStatus(short)
	switch {
	case errors.Is(err, qmp.ErrClosed):
		return "the destination's QEMU has ended: start it anew"
	case err != nil:
		d.silent = true
		return "the destination's QEMU answers no more, as when the connections end while it loads: end its process, and start it anew"
	case status.Status == qmp.StateInmigrate:
		return "the destination's QEMU takes no second migration: end it (QMP: quit) and start it anew"
	}
	return fmt.Sprintf("the destination's QEMU holds a copy of the machine that must not run (%s): end it (QMP: quit)", status.Status)
}
