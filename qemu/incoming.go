package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmferry/vmferry/internal/cause"
	"github.com/vmferry/vmferry/internal/sleep"
	"github.com/vmferry/vmferry/qmp"
)

// errLoad says that QEMU reported that it could not load the machine.
var errLoad = errors.New("QEMU could not load the machine")

// incoming is a QEMU that waits for a machine: of a snapshot, or of another QEMU.
type incoming struct {
	vm *qmp.Machine
	// noun names the task, and like what the QEMU has to be started like, in messages.
	noun, like string
}

// checkState refuses a QEMU that does not wait for a machine.
func (d *incoming) checkState(ctx context.Context) error {
	status, err := d.vm.QueryStatus(ctx)
	if err != nil {
		return err
	}
	if status.Status != qmp.StateInmigrate {
		return fmt.Errorf("%w: the machine is %q; start QEMU as %s, with \"-incoming defer\"", ErrState, status.Status, d.like)
	}
	m, err := d.vm.QueryMigrate(ctx)
	if err != nil {
		return err
	}
	if m.Status == qmp.MigrationFailed {
		return fmt.Errorf("%w: an earlier %s into this QEMU failed, and QEMU takes no second one; end it (QMP: quit) and start it anew with \"-incoming defer\"", ErrState, d.noun)
	}
	if m.Status != "" && m.Status != qmp.MigrationNone {
		return fmt.Errorf("%w: this QEMU waits for a migration already (%s); start it with \"-incoming defer\", so that its channels can be set first", ErrState, m.Status)
	}
	return nil
}

// listen makes QEMU wait for the migration at uri. QEMU 9.1 and later then does not exit if
// it cannot load the machine, and reports the reason.
func (d *incoming) listen(ctx context.Context, uri string) error {
	if d.vm.Version().AtLeast(9, 1) {
		return d.vm.MigrateIncomingAndStay(ctx, uri)
	}
	return d.vm.MigrateIncoming(ctx, uri)
}

// awaitLoaded waits until QEMU has loaded the machine, and returns its run state.
func (d *incoming) awaitLoaded(ctx context.Context) (state string, err error) {
	ends := d.vm.Subscribe("MIGRATION")
	defer ends.Close()
	for {
		m, err := d.vm.QueryMigrate(ctx)
		if err != nil {
			return "", err
		}
		status, err := d.vm.QueryStatus(ctx)
		if err != nil {
			return "", err
		}
		if m.Status == qmp.MigrationFailed {
			return "", fmt.Errorf("%w: %s", errLoad, orUnknown(m.ErrorDesc))
		}
		if m.Status == qmp.MigrationCompleted && status.Status != qmp.StateInmigrate {
			return status.Status, nil
		}
		select {
		case <-ends.Events():
		case <-time.After(watchInterval):
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// hints names the usual causes of a failed restore or migration that cannot be compared beforehand.
const hints = "its own messages (stderr or log) name the section; often a device, an option of -device or -machine, or a ROM differs from the machine that was saved or migrated"

// explain returns the error of a failed restore or migration, with the cause and the
// state of the destination.
func (d *incoming) explain(ctx context.Context, err error) error {
	short, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err, m, qerr := d.findCause(ctx, short, err)
	switch {
	case errors.Is(err, ErrGone):
		return err
	case errors.Is(qerr, qmp.ErrClosed):
		return fmt.Errorf("%w; this QEMU has ended: start it anew", err)
	case qerr != nil:
		return fmt.Errorf("%w (QEMU does not say what state it is in: %w)", err, qerr)
	}
	return fmt.Errorf("%w; %s", err, d.leftIn(short, m))
}

// findCause returns the error of a failed load with QEMU's reason for it, and what QEMU
// reports of the migration. short bounds the questions.
func (d *incoming) findCause(ctx, short context.Context, err error) (error, qmp.Migration, error) {
	m, qerr := d.vm.QueryMigrate(short)
	if qerr == nil && ctx.Err() == nil && m.Status != "" && m.Status != qmp.MigrationNone && !m.Ended() {
		// Either side's failure can be the cause of the other's. So QEMU gets
		// time to report its own.
		m, qerr = d.awaitFailure(short)
	}
	err = cause.Of(ctx, err, reasonOfQEMU(m, qerr), "sending")
	if errors.Is(err, errLoad) || errors.Is(err, ErrGone) {
		err = fmt.Errorf("%w; %s", err, hints)
	}
	return err, m, qerr
}

// reasonOfQEMU returns the reason that QEMU gives for a failed load, nil if there is none.
func reasonOfQEMU(m qmp.Migration, err error) error {
	switch {
	case errors.Is(err, qmp.ErrClosed):
		return fmt.Errorf("%w while it loaded the machine", ErrGone)
	case err == nil && m.Status == qmp.MigrationFailed:
		return fmt.Errorf("%w: %s", errLoad, orUnknown(m.ErrorDesc))
	}
	return nil
}

// awaitFailure waits up to a second for QEMU to notice that the connections are closed.
func (d *incoming) awaitFailure(ctx context.Context) (m qmp.Migration, err error) {
	for range 20 {
		if m, err = d.vm.QueryMigrate(ctx); err != nil || m.Ended() {
			return m, err
		}
		if sleep.For(ctx, 50*time.Millisecond) != nil {
			return m, nil
		}
	}
	return m, nil
}

// leftIn describes the state of the destination, and what the user can do with it. A QEMU
// accepts one incoming migration only, whether it succeeds or fails.
func (d *incoming) leftIn(ctx context.Context, m qmp.Migration) string {
	status, err := d.vm.QueryStatus(ctx)
	switch {
	case err != nil:
		return "QEMU does not say what state it is in"
	case status.Status != qmp.StateInmigrate:
		return fmt.Sprintf("this QEMU is left %q", status.Status)
	case m.Status == "" || m.Status == qmp.MigrationNone:
		return fmt.Sprintf("this QEMU is left %q and still waits for a migration", status.Status)
	}
	return fmt.Sprintf("this QEMU is left %q with a part of the machine and takes no second migration: end it (QMP: quit) and start it anew", status.Status)
}
