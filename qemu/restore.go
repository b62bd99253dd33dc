package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/vmferry/vmferry/internal/sleep"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/migration/stored"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/transport"
)

// RestoreOptions say how a snapshot is started. Zero values are defaults.
type RestoreOptions struct {
	// Monitor opens the monitor of a QEMU that was started like the one that was
	// saved, with "-incoming defer". Mostly it is a qmp.Socket.
	Monitor qmp.Opener
	// Wire is between this process and QEMU.
	migration.Wire
	// Paused leaves the machine paused. Otherwise the machine runs if it ran when it
	// was saved.
	Paused bool
	// Force restores into a QEMU that differs from the machine that was saved. Each
	// difference is a warning then, and not an error.
	Force bool
	// ConnectTimeout is how long Restore waits for the monitor of a QEMU that was
	// just started; 10 s, negative for a single attempt.
	ConnectTimeout time.Duration
	SocketDir      string
	Progress       func(migration.Progress)
	Logger         *slog.Logger
}

// RestoreResult describes a restore that succeeded.
type RestoreResult struct {
	Total    time.Duration `json:"total_ns"`
	Sent     uint64        `json:"sent_bytes"`
	Pages    uint64        `json:"pages"`
	RunState string        `json:"run_state"`
	// DigestsVerified says that the digests of all pages matched the manifest.
	DigestsVerified bool `json:"digests_verified"`
}

func (o *RestoreOptions) defaults() (err error) {
	if o.Wire, err = o.Wire.WithDefaults(); err != nil {
		return err
	}
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = 10 * time.Second
	}
	if o.Progress == nil {
		o.Progress = func(migration.Progress) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Restore starts the machine of a snapshot in a QEMU that waits for an incoming
// migration.
func Restore(ctx context.Context, r *snapshot.Reader, opts RestoreOptions) (*RestoreResult, error) {
	if err := opts.defaults(); err != nil {
		return nil, err
	}
	if err := multifd.CheckLevel(opts.Method, opts.Level); err != nil {
		return nil, err
	}
	s := &restore{opts: opts, r: r, began: time.Now(), incoming: incoming{noun: "restore", like: "the one that was saved"}}
	return s.run(ctx)
}

type restore struct {
	incoming
	opts    RestoreOptions
	r       *snapshot.Reader
	began   time.Time
	allZero bool
	// kind is the machine type of the destination, "" if QEMU does not report it.
	kind string
}

func (s *restore) run(ctx context.Context) (_ *RestoreResult, err error) {
	monitor, err := qmp.OpenWithin(ctx, s.opts.Monitor, s.opts.ConnectTimeout)
	if err != nil {
		return nil, err
	}
	defer monitor.Close()
	s.vm = qmp.NewMachine(monitor)
	s.vm.SetAnswerTimeout(answerTimeout(s.opts.StallTimeout))
	if err := s.checkState(ctx); err != nil {
		return nil, err
	}
	uuid, err := s.checkMachine(ctx)
	if err != nil {
		return nil, err
	}
	here, err := describe(ctx, s.vm)
	if err != nil {
		return nil, err
	}
	if err := s.checkHardware(here); err != nil {
		return nil, err
	}
	if err := s.checkMemory(ctx, here.memdev); err != nil {
		return nil, err
	}
	if err := s.warnOfFirmwareVariables(ctx); err != nil {
		return nil, err
	}
	p, err := makePlan(ctx, s.vm, migrationSettings{channels: s.opts.Channels, method: s.opts.Method})
	if err != nil {
		return nil, err
	}
	if err := p.apply(ctx, s.vm); err != nil {
		short, cancel := detached(ctx)
		defer cancel()
		return nil, errors.Join(err, p.before.restore(short, s.vm))
	}
	if s.opts.Paused {
		// Before the incoming migration, stop only sets the state of the machine
		// after it.
		if err := s.vm.Stop(ctx); err != nil {
			return nil, err
		}
	}
	if err := s.send(ctx, uuid); err != nil {
		return nil, s.explain(ctx, err)
	}
	state, err := s.awaitLoaded(ctx)
	if err == nil {
		state, err = s.applyRunState(ctx, state)
	}
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	if err := p.before.restore(ctx, s.vm); err != nil {
		s.opts.Logger.Warn("putting QEMU's migration settings back", "error", err)
	}
	return &RestoreResult{Total: time.Since(s.began), Sent: s.opts.Counters.Bytes.Load(), Pages: s.opts.Counters.Normal.Load(), RunState: state, DigestsVerified: s.r.DigestsVerified()}, nil
}

func (s *restore) send(ctx context.Context, uuid [16]byte) error {
	dir, err := makeSocketDir(s.vm, s.opts.SocketDir)
	if err != nil {
		return err
	}
	defer func() {
		if removeErr := dir.remove(); removeErr != nil {
			s.opts.Logger.Warn("cleaning up after a restore", "error", removeErr)
		}
	}()
	if err := dir.handOver(); err != nil {
		return err
	}
	if err := s.listen(ctx, dir.address()); err != nil {
		if cannotConnect(err.Error()) {
			err = fmt.Errorf("%w: %s", err, adviceOnSocket(s.vm))
		}
		return fmt.Errorf("telling QEMU to wait for the migration: %w", err)
	}
	// QEMU does not always answer while it loads the machine. StallTimeout bounds the
	// time without progress.
	s.vm.SetAnswerTimeout(0)
	defer s.vm.SetAnswerTimeout(answerTimeout(s.opts.StallTimeout))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.watch(ctx, cancel)
	}()
	defer func() { cancel(nil); <-watched }()
	return stored.Send(ctx, s.dialer(dir), s.r, stored.SendConfig{
		Wire: s.opts.Wire, AllZero: s.allZero, UUID: &uuid,
	})
}

// dialer connects to QEMU's socket. It removes the socket after the last connection,
// so that the socket does not remain if this process is killed.
func (s *restore) dialer(dir *socketDir) transport.Dialer {
	made := 0
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := dir.dial(ctx)
		if err != nil {
			return nil, err
		}
		if made++; made == s.opts.Channels+1 {
			if err := dir.remove(); err != nil {
				s.opts.Logger.Warn("removing the socket that QEMU listened on", "error", err)
			}
		}
		return conn, nil
	}
}

// watch asks QEMU for the state of the migration until ctx ends. A failure at QEMU
// cancels the sending.
func (s *restore) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	for {
		if sleep.For(ctx, 50*time.Millisecond) != nil {
			return
		}
		s.opts.Progress(migration.Progress{
			Task: migration.TaskRestore, Sent: s.opts.Counters.Bytes.Load(), Normal: s.opts.Counters.Normal.Load(), TotalPages: s.r.Manifest().Totals.Pages, Elapsed: time.Since(s.began),
		})
		// QEMU does not answer while it loads devices.
		m, err := s.vm.QueryMigrate(ctx)
		if err != nil {
			if ctx.Err() == nil {
				cancel(fmt.Errorf("%w while it loaded the machine: %w", ErrGone, err))
			}
			return
		}
		if m.Status == qmp.MigrationFailed {
			cancel(fmt.Errorf("%w: %s", errLoad, orUnknown(m.ErrorDesc)))
			return
		}
	}
}

// applyRunState brings the machine from the state after the migration to the state
// that the options and the snapshot want.
func (s *restore) applyRunState(ctx context.Context, state string) (string, error) {
	ran := s.r.Manifest().Machine.RunState
	switch {
	case s.opts.Paused && state == qmp.StateRunning:
		if err := s.vm.Stop(ctx); err != nil {
			return state, err
		}
	case !s.opts.Paused && state != qmp.StateRunning && ran == qmp.StateRunning:
		if err := s.vm.Cont(ctx); err != nil {
			return state, fmt.Errorf("letting the machine run: %w", err)
		}
	}
	status, err := s.vm.QueryStatus(ctx)
	return status.Status, err
}
