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

// listen makes QEMU wait for the migration at uri. QEMU 9.1 and later then does not exit if
// it cannot load the machine, and reports the reason.
func (s *restore) listen(ctx context.Context, uri string) error {
	if s.vm.Version().AtLeast(9, 1) {
		return s.vm.MigrateIncomingAndStay(ctx, uri)
	}
	return s.vm.MigrateIncoming(ctx, uri)
}

// hints names the usual causes of a failed restore that cannot be compared beforehand.
const hints = "its own messages (stderr or log) name the section; often a device, an option of -device or -machine, or a ROM differs from the machine that was saved"

// explain returns the error of a failed restore, with the cause and the state of the
// destination.
func (s *restore) explain(ctx context.Context, err error) error {
	short, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	m, qerr := s.vm.QueryMigrate(short)
	if qerr == nil && ctx.Err() == nil && m.Status != "" && m.Status != qmp.MigrationNone && !m.Ended() {
		// Either side's failure can be the cause of the other's. So QEMU gets
		// time to report its own.
		m, qerr = s.awaitFailure(short)
	}
	err = cause.Of(ctx, err, reasonOfQEMU(m, qerr), "sending")
	if errors.Is(err, errLoad) || errors.Is(err, ErrGone) {
		err = fmt.Errorf("%w; %s", err, hints)
	}
	switch {
	case errors.Is(err, ErrGone):
		return err
	case errors.Is(qerr, qmp.ErrClosed):
		return fmt.Errorf("%w; this QEMU has ended: start it anew", err)
	case qerr != nil:
		return fmt.Errorf("%w (QEMU does not say what state it is in: %w)", err, qerr)
	}
	return fmt.Errorf("%w; %s", err, s.leftIn(short, m))
}

// reasonOfQEMU returns the reason that QEMU gives for a failed restore, nil if there is none.
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
func (s *restore) awaitFailure(ctx context.Context) (m qmp.Migration, err error) {
	for range 20 {
		if m, err = s.vm.QueryMigrate(ctx); err != nil || m.Ended() {
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
func (s *restore) leftIn(ctx context.Context, m qmp.Migration) string {
	status, err := s.vm.QueryStatus(ctx)
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
