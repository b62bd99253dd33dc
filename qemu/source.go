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

	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/vmstate"
)

const (
	// watchInterval is how often QEMU is asked how its migration stands.
	watchInterval = 10 * time.Millisecond
	// cleanupTime bounds the wait for QEMU to end and clean up a migration whose
	// connections are gone.
	cleanupTime = 10 * time.Second
)

// migrate runs the migration up to the point where the machine stands still and all
// has arrived.
//
// Receiving does not end with ctx: QEMU gives the migration up first, and loses its
// connections then.
func (s *save) migrate(ctx context.Context) (*migration.Received, error) {
	unixListener, err := s.dir.listen()
	if err != nil {
		return nil, err
	}
	ln, err := lingerOn(unixListener, s.guard)
	if err != nil {
		return nil, err
	}
	s.sockets = ln
	r := s.startReceiving(context.WithoutCancel(ctx), ln)
	defer r.stop(nil)
	s.report("connect")
	s.opts.Logger.Debug("the migration begins", "qemu", fmt.Sprint(s.c.Version()), "to", s.dir.address())
	if err := s.c.Migrate(ctx, s.dir.address()); err != nil {
		return nil, fmt.Errorf("starting the migration: %w", err)
	}
	// QEMU's main loop may stand still for as long as it sends the rest. That the
	// migration stalls is noticed by its bytes.
	s.c.SetAnswerTimeout(0)
	err = s.watch(ctx, r)
	s.c.SetAnswerTimeout(answerTimeout(s.opts.StallTimeout))
	if err != nil {
		return nil, err
	}
	if m := r.received.UUID; m != ([16]byte{}) {
		s.opts.Logger.Debug("machine", "uuid", hex.EncodeToString(m[:]))
	}
	return r.received, nil
}

// receiving is the destination of the save, in a goroutine of its own.
type receiving struct {
	cancel context.CancelCauseFunc
	done   chan struct{} // closed at the end; the fields below are then set
	err    error
	// received is set, also with an error, when all has arrived.
	received *migration.Received
	// gaveUp says that all has arrived and the migration was failed on purpose:
	// see errNotRunning.
	gaveUp bool
}

func (s *save) startReceiving(ctx context.Context, ln net.Listener) *receiving {
	ctx, cancel := context.WithCancelCause(ctx)
	r := &receiving{cancel: cancel, done: make(chan struct{})}
	pace := newPace(s.opts.Bandwidth)
	endLifting := liftAtStop(s.c, pace)
	go func() {
		defer close(r.done)
		defer endLifting()
		_, r.err = migration.Receive(ctx, ln, migration.ReceiveConfig{
			Channels: s.opts.Channels, Method: s.opts.Method, Sink: s.w, MaxMemory: s.opts.MaxMemory, StallTimeout: s.opts.StallTimeout, Commit: func(all *migration.Received) error {
				r.received = all
				return s.allArrived(all)
			},
			Reader:         vmstate.ReaderOptions{NoDescription: s.noDescription},
			ConnectTimeout: s.opts.ConnectTimeout, Accelerator: s.opts.Accelerator, Progress: &s.prog, Pace: pace, Logger: s.opts.Logger,
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
// QEMU that is frozen does not say how its migration stands.
func (r *receiving) untilEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		select {
		case <-r.done:
			sleep(ctx, failedGrace)
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// allArrived takes the machine's run state from the stream. If QEMU waits to be told
// how it went, a machine that does not run is not taken from it.
func (s *save) allArrived(all *migration.Received) error {
	saved := vmstate.RunState(all.Devices)
	var ran, runs bool
	err := s.note(func(r *recovery) {
		ran = r.Ran
		r.Saved = saved
		runs = r.ranAtPause()
	})
	switch {
	case err != nil:
		return err
	case ran && !runs:
		s.opts.Logger.Warn("the machine stopped running while it was saved, not by this save; it is left as it is", "run_state", saved)
	}
	if all.ReturnPath && !runs {
		return errNotRunning
	}
	return nil
}

// watch follows the migration at the source and here until both have ended.
func (s *save) watch(ctx context.Context, r *receiving) error {
	looking, stop := r.untilEnd(ctx)
	defer stop()
	for pushed := false; ; {
		select {
		case <-r.done:
			return s.awaitSource(ctx, r)
		case <-ctx.Done():
			s.giveUp(ctx, r)
			return context.Cause(ctx)
		case <-time.After(watchInterval):
		}
		err := s.look(looking)
		if looking.Err() != nil {
			continue // to give up, or because the receiving has ended
		}
		if err != nil {
			r.stop(err)
			return err
		}
		if s.last.Ended() {
			return s.awaitReceiving(ctx, r)
		}
		if err := s.checkStill(looking); errors.Is(err, errResumed) {
			s.giveUp(ctx, r)
			return err
		}
		s.report("memory")
		if !pushed && s.rounds() > uint64(s.opts.MaxRounds) {
			pushed = true
			s.pushThrough(looking)
		}
	}
}

// look asks QEMU how the migration stands, and whether the machine still runs.
func (s *save) look(ctx context.Context) error {
	m, err := s.c.QueryMigrate(ctx)
	if err == nil {
		s.last = m
		err = s.lookAtRunState(ctx)
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w while it was saved: %w", ErrGone, err)
	}
	return err
}

// lookAtRunState notes whether the machine runs. The guard goes by that if this
// process is killed before the stream says it.
func (s *save) lookAtRunState(ctx context.Context) error {
	status, err := s.c.QueryStatus(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	known := s.recovery.Stopped || s.recovery.Ran == live(status.Status)
	s.mu.Unlock()
	if known || status.Status == stateFinishMigrate || status.Status == qmp.StatePostmigrate {
		return nil
	}
	return s.note(func(r *recovery) { r.Ran = live(status.Status) })
}

// pushThrough makes QEMU pause the machine for the rest.
func (s *save) pushThrough(ctx context.Context) {
	s.opts.Logger.Warn("the machine changes its memory faster than it can be saved; pausing it for the rest", "rounds", s.rounds())
	if err := s.c.SetMigrateParameters(ctx, qmp.MigrateParameters{DowntimeLimit: new(qmp.Milliseconds(2_000_000))}); err != nil {
		s.opts.Logger.Warn("raising the downtime limit", "error", err)
	}
}

// awaitSource waits for QEMU's end of a migration whose receiving has ended, and
// says how the whole went. If the receiving failed by itself, QEMU has to be told.
func (s *save) awaitSource(ctx context.Context, r *receiving) error {
	if r.err != nil && !r.gaveUp && !sawPeerLeave(r.err) {
		s.giveUp(ctx, r)
		return r.err
	}
	short, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	for {
		if err := s.look(short); err != nil {
			return explainBy(r.err, err)
		}
		if s.last.Ended() {
			return s.outcome(r)
		}
		if sleep(short, watchInterval) != nil {
			break
		}
	}
	return explainBy(r.err, fmt.Errorf("%w: the connections have ended, and QEMU still says that the migration is %q after %v", ErrState, s.last.Status, cleanupTime))
}

// failedGrace is how long the connections of a migration that failed at QEMU may stay
// open.
const failedGrace = 2 * time.Second

// awaitReceiving waits for the end of the receiving of a migration that has ended at
// QEMU. What QEMU sent of one that completed may still be on its way.
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
	return s.outcome(r)
}

// sending is what QEMU does in a save.
const sending = "send the machine"

// outcome says how a migration went that has ended on both sides.
func (s *save) outcome(r *receiving) error {
	if r.gaveUp {
		return nil
	}
	if s.last.Status == qmp.MigrationCompleted && r.err == nil {
		s.pausedNow()
		return nil
	}
	return s.failure(r.err)
}

// failure joins what QEMU says with what the receiving says; nil if all went well.
func (s *save) failure(receiving error) error {
	err := explainBy(receiving, errorOfMigration(s.last, sending))
	if err != nil && (errors.Is(receiving, migration.ErrNobody) || cannotConnect(s.last.ErrorDesc)) {
		err = fmt.Errorf("%w: %s", err, adviceOnSocket(s.c))
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

// pausedNow notes that the machine stands still from now on.
func (s *save) pausedNow() {
	if !s.recovery.Stopped {
		s.paused = time.Now()
	}
	s.report("paused")
}

// giveUp ends the migration at QEMU and here. QEMU is told first, so that it does not
// take the end of its connections for a failure, and waits for the return path's end.
func (s *save) giveUp(ctx context.Context, r *receiving) {
	short, cancel := detached(ctx)
	defer cancel()
	s.c.SetAnswerTimeout(answerTimeout(s.opts.StallTimeout)) // QEMU may be why
	err := s.c.MigrateCancel(short)
	r.stop(context.Cause(ctx))
	if err == nil {
		err = endMigration(short, s.c)
	}
	if err != nil && !errors.Is(err, qmp.ErrClosed) {
		s.opts.Logger.Warn("cancelling the migration", "error", err)
	}
}

// alive tells whether a process is there and has not ended.
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
