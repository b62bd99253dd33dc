package qemu

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/internal/cause"
	"github.com/vmferry/vmferry/internal/sleep"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// cleanupTime bounds the wait for QEMU to end and clean up a migration whose
// connections are closed.
const cleanupTime = 10 * time.Second

// migrate runs the migration until the machine is paused and all data has arrived.
//
// The end of ctx does not end the receiving: QEMU ends the migration first, and its
// connections are closed after that.
func (s *save) migrate(ctx context.Context) (*migration.Received, error) {
	ln, err := s.listen()
	if err != nil {
		return nil, err
	}
	r := s.startReceiving(context.WithoutCancel(ctx), ln)
	defer r.stop(nil)
	s.report("connect")
	s.changes = s.vm.Subscribe("MIGRATION", "MIGRATION_PASS", "STOP")
	defer s.changes.Close()
	s.opts.Logger.Debug("the migration begins", "qemu", fmt.Sprint(s.vm.Version()), "to", s.dir.address())
	if err := s.vm.Migrate(ctx, s.dir.address()); err != nil {
		return nil, fmt.Errorf("starting the migration: %w", err)
	}
	// QEMU's main loop may not answer while it sends the rest. StallTimeout bounds the
	// time without progress.
	s.vm.SetAnswerTimeout(0)
	err = s.watch(ctx, r)
	s.vm.SetAnswerTimeout(answerTimeout(s.opts.StallTimeout))
	if err != nil {
		return nil, err
	}
	if m := r.received.UUID; m != ([16]byte{}) {
		s.opts.Logger.Debug("machine", "uuid", hex.EncodeToString(m[:]))
	}
	return r.received, nil
}

// receiving is the destination of the save. It runs in a goroutine of its own.
type receiving struct {
	cancel context.CancelCauseFunc
	done   chan struct{} // closed at the end; the fields below are then set
	err    error
	// received is set when all data has arrived, even if err is not nil.
	received *migration.Received
	// gaveUp says that all data has arrived and that the receiving failed the
	// migration on purpose: see errNotRunning.
	gaveUp bool
}

func (s *save) startReceiving(ctx context.Context, ln net.Listener) *receiving {
	ctx, cancel := context.WithCancelCause(ctx)
	r := &receiving{cancel: cancel, done: make(chan struct{})}
	pace := newPace(s.opts.Bandwidth)
	endLifting := liftAtStop(s.vm, pace)
	go func() {
		defer close(r.done)
		defer endLifting()
		_, r.err = migration.Receive(ctx, ln, migration.ReceiveConfig{
			Wire: s.opts.Wire, Sink: s.w, MaxMemory: s.opts.MaxMemory, Commit: func(all *migration.Received) error {
				r.received = all
				return s.allArrived(all)
			},
			Main:           vmstate.DestinationOptions{NoDescription: s.noDescription},
			ConnectTimeout: s.opts.ConnectTimeout, Pace: pace, Logger: s.opts.Logger,
		})
		r.gaveUp = errors.Is(r.err, errNotRunning)
	}()
	return r
}

// stop ends the receiving and waits for its end.
func (r *receiving) stop(cause error) {
	r.cancel(cause)
	<-r.done
}

// untilEnd returns a context that ends with ctx, or some time after the receiving: a
// QEMU that is frozen does not answer queries of its migration.
func (r *receiving) untilEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		select {
		case <-r.done:
			sleep.For(ctx, failedGrace)
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// allArrived takes the machine's run state from the stream. With a return path, QEMU
// waits for the result: if the machine does not run, the result is a failure, see
// errNotRunning.
func (s *save) allArrived(all *migration.Received) error {
	s.arrived = time.Now()
	saved := vmstate.RunState(all.Devices)
	var ran, runs bool
	err := s.updateRecovery(func(r *recovery) {
		ran = r.Ran
		r.Saved = saved
		runs = r.ranAtPause()
	})
	switch {
	case err != nil:
		return err
	case ran && !runs:
		s.opts.Logger.Warn("the machine stopped while it was saved, and not because of the save; the save leaves it as it is", "run_state", saved)
	}
	if all.ReturnPath && !runs {
		return errNotRunning
	}
	return nil
}

const (
	// sending names what QEMU does in a save.
	sending = "send the machine"
	// doing names this side in the error of a failure that both sides report.
	doing = "vmferry"
)

// outcome returns the result of a migration that has ended on both sides.
func (s *save) outcome(ctx context.Context, r *receiving) error {
	if r.gaveUp {
		return nil
	}
	if s.last.Status == qmp.MigrationCompleted && r.err == nil {
		s.recordPause()
		return nil
	}
	return s.failure(ctx, r.err)
}

// failure joins QEMU's error with that of the receiving; nil if there is none.
func (s *save) failure(ctx context.Context, receiving error) error {
	err := cause.Of(ctx, receiving, errorOfMigration(s.last, sending), doing)
	if err != nil && (errors.Is(receiving, transport.ErrNoSource) || cannotConnect(s.last.ErrorDesc)) {
		err = fmt.Errorf("%w: %s", err, adviceOnSocket(s.vm))
	}
	return err
}

// cannotConnect tells whether QEMU's reason is that it cannot reach the socket.
func cannotConnect(reason string) bool {
	for _, errno := range []unix.Errno{unix.ENOENT, unix.EACCES, unix.ECONNREFUSED} {
		text := errno.Error() // Go's text is QEMU's in lower case
		if strings.Contains(strings.ToLower(reason), text) {
			return true
		}
	}
	return false
}

// giveUp ends the migration at QEMU and in this process.
func (s *save) giveUp(ctx context.Context, r *receiving) {
	s.cancel(ctx, func() { r.stop(context.Cause(ctx)) })
}

// alive tells whether a process exists and has not ended.
func alive(pid int) bool {
	if err := unix.Kill(pid, 0); err == unix.ESRCH {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name may have spaces
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}
