package qemu

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/snapshot"
)

// RestoreOptions say how a snapshot is started. Zero values are defaults.
type RestoreOptions struct {
	// QMP is the path of the QMP socket of a QEMU that was started like the
	// one that was saved, with "-incoming defer".
	QMP      string
	Channels int            // 2
	Method   multifd.Method // none
	Level    int            // the method's default
	// Paused leaves the machine paused. Otherwise it runs if it ran when it
	// was saved.
	Paused bool
	// StallTimeout is that of migration.SendConfig.
	StallTimeout time.Duration
	SocketDir    string
	// Accelerator is what qpl uses; nil is software. Its owner closes it.
	Accelerator *multifd.Accelerator
	Progress    func(RestoreProgress)
	Logger      *slog.Logger
}

// RestoreProgress is how far a restore is.
type RestoreProgress struct {
	Sent    uint64        `json:"sent_bytes"` // over the wire
	Normal  uint64        `json:"normal_pages"`
	Total   uint64        `json:"total_pages"`
	Elapsed time.Duration `json:"elapsed_ns"`
}

// RestoreResult is what a restore came to.
type RestoreResult struct {
	Total    time.Duration `json:"total_ns"`
	Sent     uint64        `json:"sent_bytes"`
	Pages    uint64        `json:"pages"`
	RunState string        `json:"run_state"`
}

func (o *RestoreOptions) defaults() {
	if o.Channels == 0 {
		o.Channels = 2
	}
	if o.Method == nil {
		o.Method = multifd.None
	}
	if o.Progress == nil {
		o.Progress = func(RestoreProgress) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Restore starts a snapshot's machine in a QEMU that waits for it.
func Restore(ctx context.Context, r *snapshot.Reader, opts RestoreOptions) (*RestoreResult, error) {
	opts.defaults()
	s := &restore{opts: opts, r: r, began: time.Now()}
	return s.run(ctx)
}

type restore struct {
	opts    RestoreOptions
	r       *snapshot.Reader
	c       *qmp.Client
	began   time.Time
	prog    migration.Progress
	allZero bool
}

func (s *restore) run(ctx context.Context) (_ *RestoreResult, err error) {
	if s.c, err = qmp.Dial(ctx, s.opts.QMP); err != nil {
		return nil, err
	}
	defer s.c.Close()
	if err := s.checkState(ctx); err != nil {
		return nil, err
	}
	uuid, err := s.checkMachine(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.checkMemory(ctx); err != nil {
		return nil, err
	}
	p, err := makePlan(ctx, s.c, wish{channels: s.opts.Channels, method: s.opts.Method})
	if err != nil {
		return nil, err
	}
	if err := p.apply(ctx, s.c); err != nil {
		short, cancel := detached(ctx)
		defer cancel()
		return nil, errors.Join(err, p.before.restore(short, s.c))
	}
	if s.opts.Paused {
		// While a migration is awaited this only says how the machine is to
		// be left afterwards.
		if err := s.c.Stop(ctx); err != nil {
			return nil, err
		}
	}
	if err := s.send(ctx, uuid); err != nil {
		return nil, s.explain(ctx, err)
	}
	state, err := s.goOn(ctx)
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	if err := p.before.restore(ctx, s.c); err != nil {
		s.opts.Logger.Warn("putting QEMU's migration settings back", "error", err)
	}
	return &RestoreResult{Total: time.Since(s.began), Sent: s.prog.Bytes.Load(), Pages: s.prog.Normal.Load(), RunState: state}, nil
}

func (s *restore) checkState(ctx context.Context) error {
	status, err := s.c.QueryStatus(ctx)
	if err != nil {
		return err
	}
	if status.Status != qmp.StateInmigrate {
		return fmt.Errorf("%w: the machine is %q; start QEMU as the one that was saved, with \"-incoming defer\"", ErrState, status.Status)
	}
	m, err := s.c.QueryMigrate(ctx)
	if err != nil {
		return err
	}
	if m.Status != "" && m.Status != qmp.MigrationNone {
		return fmt.Errorf("%w: this QEMU waits for a migration already (%s); start it with \"-incoming defer\", so that its channels can be set first", ErrState, m.Status)
	}
	return nil
}

// checkMachine compares what QEMU would refuse, but with less to go by. It
// returns the destination's own uuid, which its channels want to hear.
func (s *restore) checkMachine(ctx context.Context) ([16]byte, error) {
	want := s.r.Manifest().Machine
	var kind string
	var uuid [16]byte
	if err := s.c.QomGet(ctx, "/machine", "type", &kind); err == nil {
		if kind = strings.TrimSuffix(kind, "-machine"); kind != want.Type {
			return uuid, fmt.Errorf("%w: the snapshot is of a machine %q, this QEMU has %q: start it with \"-M %s\" and the same devices", ErrState, want.Type, kind, want.Type)
		}
	}
	text, err := s.c.QueryUUID(ctx)
	if err != nil {
		return uuid, err
	}
	if n, err := hex.Decode(uuid[:], []byte(strings.ReplaceAll(text, "-", ""))); err != nil || n != 16 {
		return uuid, fmt.Errorf("query-uuid: %q is no uuid", text)
	}
	if is := hex.EncodeToString(uuid[:]); want.UUID != "" && want.UUID != is {
		s.opts.Logger.Warn("the destination has another uuid than the machine that was saved", "saved", want.UUID, "destination", is)
	}
	return uuid, nil
}

// checkMemory looks at what the destination's memory is made of.
func (s *restore) checkMemory(ctx context.Context) error {
	devs, err := s.c.QueryMemdev(ctx)
	if err != nil {
		return err
	}
	for _, d := range devs {
		if d.ID == "" {
			continue
		}
		if !d.Prealloc {
			s.opts.Logger.Warn("the destination's memory is not preallocated: page faults will slow the restore down, with an accelerator several times (-object ...,prealloc=on)", "memdev", d.ID)
		}
		var path string
		if err := s.c.QomGet(ctx, "/objects/"+d.ID, "mem-path", &path); err == nil && path != "" {
			// A file may hold something already, also where the snapshot
			// has zero pages.
			s.allZero = true
		}
	}
	return nil
}

func (s *restore) send(ctx context.Context, uuid [16]byte) error {
	dir, err := private(s.c, s.opts.SocketDir)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	addr := migration.Address{Network: "unix", Addr: socketIn(dir)}
	if err := s.c.MigrateIncoming(ctx, addr.String()); err != nil {
		return fmt.Errorf("telling QEMU to wait for the migration: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.watch(ctx, cancel)
	}()
	defer func() { cancel(nil); <-watched }()
	dial := func(ctx context.Context) (net.Conn, error) { return addr.Dial(ctx, nil) }
	return migration.SendSnapshot(ctx, dial, s.r, migration.SnapshotConfig{
		StallTimeout: s.opts.StallTimeout,
		Channels:     s.opts.Channels, Method: s.opts.Method, Level: s.opts.Level, AllZero: s.allZero, UUID: &uuid, Accelerator: s.opts.Accelerator, Progress: &s.prog,
	})
}

// watch follows the migration at the destination. A failure there cancels the
// sending.
func (s *restore) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	for {
		if sleep(ctx, 50*time.Millisecond) != nil {
			return
		}
		s.opts.Progress(RestoreProgress{
			Sent: s.prog.Bytes.Load(), Normal: s.prog.Normal.Load(), Total: s.r.Manifest().Totals.Pages, Elapsed: time.Since(s.began),
		})
		// While it loads devices QEMU does not answer.
		m, err := s.c.QueryMigrate(ctx)
		if err != nil {
			if ctx.Err() == nil {
				cancel(fmt.Errorf("%w while it loaded the machine: %w", ErrGone, err))
			}
			return
		}
		if m.Status == qmp.MigrationFailed {
			cancel(fmt.Errorf("QEMU could not load the machine: %s", orUnknown(m.ErrorDesc)))
			return
		}
	}
}

// explain adds what QEMU says of a failure, if it still says anything.
func (s *restore) explain(ctx context.Context, err error) error {
	short, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	m, qerr := s.c.QueryMigrate(short)
	switch {
	case errors.Is(qerr, qmp.ErrClosed) && !errors.Is(err, ErrGone):
		return fmt.Errorf("%w while it loaded the machine (its own messages say why): %w", ErrGone, err)
	case qerr == nil && m.Status == qmp.MigrationFailed && m.ErrorDesc != "" && !strings.Contains(err.Error(), m.ErrorDesc):
		return fmt.Errorf("QEMU could not load the machine: %s (%w)", m.ErrorDesc, err)
	}
	return err
}

// goOn waits until the machine is there, and lets it run if it is to.
func (s *restore) goOn(ctx context.Context) (string, error) {
	for {
		m, err := s.c.QueryMigrate(ctx)
		if err != nil {
			return "", err
		}
		status, err := s.c.QueryStatus(ctx)
		if err != nil {
			return "", err
		}
		if m.Status == qmp.MigrationFailed {
			return "", fmt.Errorf("QEMU could not load the machine: %s", orUnknown(m.ErrorDesc))
		}
		if m.Status == qmp.MigrationCompleted && status.Status != qmp.StateInmigrate {
			return s.settleState(ctx, status.Status)
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return "", err
		}
	}
}

// settleState brings the machine from the state it came up in to the one
// wanted.
func (s *restore) settleState(ctx context.Context, state string) (string, error) {
	ran := s.r.Manifest().Machine.RunState
	switch {
	case s.opts.Paused && state == qmp.StateRunning:
		if err := s.c.Stop(ctx); err != nil {
			return state, err
		}
	case !s.opts.Paused && state != qmp.StateRunning && ran == qmp.StateRunning:
		if err := s.c.Cont(ctx); err != nil {
			return state, fmt.Errorf("letting the machine run: %w", err)
		}
	}
	status, err := s.c.QueryStatus(ctx)
	return status.Status, err
}
