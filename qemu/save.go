package qemu

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/vmstate"
)

// SaveOptions say how a running machine is saved. Zero values are defaults.
type SaveOptions struct {
	// QMP is the path of the machine's QMP socket.
	QMP      string
	Channels int            // 2
	Method   multifd.Method // none
	Level    int            // the method's default
	Store    snapshot.Store // fast
	Tool     string         // noted in the manifest
	// AtPause is a shell command that is run while the machine is paused at
	// the end, with VMFERRY_SNAPSHOT and VMFERRY_QMP in its environment. If
	// it fails, so does the save.
	AtPause string
	// StayPaused leaves the machine paused after a save that went well.
	StayPaused bool
	// AlwaysLive lets the machine run while it is saved also where QEMU
	// itself is known to lose writes then: see standStill.
	AlwaysLive bool
	// Bandwidth bounds the source, in bytes a second; 0 does not.
	Bandwidth uint64
	// Downtime is for how long the machine may be paused at the end; 300 ms.
	Downtime time.Duration
	// MaxRounds is after how many rounds over the dirty pages the machine is
	// paused however long the rest takes; 30.
	MaxRounds int
	// ConnectTimeout bounds the wait for QEMU's connections; 30 s.
	ConnectTimeout time.Duration
	// StallTimeout is that of migration.ReceiveConfig.
	StallTimeout time.Duration
	// SocketDir is where the socket between QEMU and this process is made;
	// the directory for temporary files.
	SocketDir string
	// Guard is the command that runs RunGuard; without it a killed process
	// may leave the machine paused.
	Guard []string
	// Accelerator is what qpl and the stores fast and dense use; nil is
	// software. Its owner closes it.
	Accelerator *multifd.Accelerator
	Progress    func(SaveProgress)
	Logger      *slog.Logger
}

// SaveProgress is how far a save is.
type SaveProgress struct {
	Phase      string        `json:"phase"` // "connect", "memory", "paused" or "finish"
	Round      uint64        `json:"round"`
	Received   uint64        `json:"received_bytes"` // over the wire
	Stored     int64         `json:"stored_bytes"`   // of pages
	Normal     uint64        `json:"normal_pages"`
	Zero       uint64        `json:"zero_pages"`
	Total      uint64        `json:"total_bytes"`     // of guest memory
	Remaining  uint64        `json:"remaining_bytes"` // still to come in this round
	DirtyRate  uint64        `json:"dirty_pages_per_second"`
	BytesASec  float64       `json:"bytes_per_second"`
	Elapsed    time.Duration `json:"elapsed_ns"`
	TimeToGo   time.Duration `json:"time_to_go_ns"` // estimated, 0 if unknown
	QEMUStatus string        `json:"qemu_status"`
}

// SaveResult is what a save came to.
type SaveResult struct {
	Manifest *snapshot.Manifest `json:"-"`
	Snapshot string             `json:"snapshot"`
	// Total is the whole time, Paused how long the machine stood still.
	Total    time.Duration `json:"total_ns"`
	Paused   time.Duration `json:"paused_ns"`
	Downtime time.Duration `json:"downtime_ns"` // by QEMU's count, without AtPause
	Rounds   uint64        `json:"rounds"`
	Received uint64        `json:"received_bytes"`
	Bytes    int64         `json:"snapshot_bytes"`
	Pages    uint64        `json:"pages"`
	Zero     uint64        `json:"zero_pages"`
	// RunState is the state that the machine was left in.
	RunState string `json:"run_state"`
}

func (o *SaveOptions) defaults() {
	if o.Channels == 0 {
		o.Channels = 2
	}
	if o.Method == nil {
		o.Method = multifd.None
	}
	if o.Bandwidth == 0 {
		o.Bandwidth = unlimited
	}
	if o.Downtime == 0 {
		o.Downtime = 300 * time.Millisecond
	}
	if o.MaxRounds == 0 {
		o.MaxRounds = 30
	}
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = 30 * time.Second
	}
	if o.Progress == nil {
		o.Progress = func(SaveProgress) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Save saves a machine to a new directory while it runs. Whatever happens, the
// machine runs on afterwards if it ran before, unless StayPaused; and a save
// that fails leaves no snapshot.
func Save(ctx context.Context, path string, opts SaveOptions) (_ *SaveResult, err error) {
	opts.defaults()
	dir, err := snapshot.CreateDir(path)
	if err != nil {
		return nil, err
	}
	w, err := snapshot.Create(dir, snapshot.Options{Store: opts.Store, Tool: opts.Tool, Accelerator: opts.Accelerator})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			if abortErr := errors.Join(w.Abort(), dir.RemoveDir()); abortErr != nil {
				opts.Logger.Warn("cleaning up after a save that failed", "error", abortErr)
			}
		}
	}()
	s := &save{opts: opts, path: path, w: w, began: time.Now()}
	return s.run(ctx)
}

// save is one save under way.
type save struct {
	opts  SaveOptions
	path  string
	w     *snapshot.Writer
	began time.Time
	c     *qmp.Client
	prog  migration.Progress
	runs  bool // the machine ran before

	paused  time.Time // since when the machine stands still
	stopped bool      // by standStill, before the migration began
	last    qmp.Migration
}

func (s *save) run(ctx context.Context) (_ *SaveResult, err error) {
	if s.c, err = qmp.Dial(ctx, s.opts.QMP); err != nil {
		return nil, err
	}
	defer s.c.Close()
	if err := s.checkState(ctx); err != nil {
		return nil, err
	}
	p, err := makePlan(ctx, s.c, wish{channels: s.opts.Channels, method: s.opts.Method, level: s.opts.Level, bandwidth: s.opts.Bandwidth, downtime: s.opts.Downtime})
	if err != nil {
		return nil, err
	}
	// The guard stands before the first thing is changed.
	if s.opts.Guard != nil {
		guard, err := startGuard(s.opts.Guard, guardOrder{QMP: s.opts.QMP, Run: s.runs, Before: p.before})
		if err != nil {
			return nil, err
		}
		defer func() {
			if guardErr := guard.Disarm(); guardErr != nil {
				s.opts.Logger.Warn("ending the guard process", "error", guardErr)
			}
		}()
	}
	before := &p.before
	defer func() {
		if before != nil {
			err = errors.Join(err, s.settle(ctx, before))
		}
	}()
	if err := p.apply(ctx, s.c); err != nil {
		return nil, err
	}
	if err := s.standStill(ctx); err != nil {
		return nil, err
	}
	received, err := s.migrate(ctx)
	if err != nil {
		return nil, err
	}
	result := &SaveResult{Snapshot: s.path, Rounds: s.rounds(), Received: s.prog.Bytes.Load(), Downtime: s.last.Downtime.Duration()}
	if err := s.atPause(ctx); err != nil {
		return nil, err
	}
	// The machine runs again before the snapshot is flushed to the disk,
	// which does not concern it.
	putBack := before
	before = nil
	if err := s.goOn(ctx, putBack, result); err != nil {
		return nil, err
	}
	s.report("finish")
	meta := received.Meta()
	if s.runs {
		// The stream says so too, unless standStill paused the machine.
		meta.Machine.RunState = qmp.StateRunning
	}
	meta.Machine.QEMU = fmt.Sprintf("%d.%d.%d", s.c.Version().Major, s.c.Version().Minor, s.c.Version().Micro)
	m, err := s.w.Finish(ctx, meta)
	if err != nil {
		return nil, err
	}
	result.Manifest, result.Bytes, result.Pages, result.Zero = m, m.Bytes(), m.Totals.Pages, m.Totals.Zero
	result.Total = time.Since(s.began)
	return result, nil
}

// checkState refuses what could not end well, before anything is touched.
func (s *save) checkState(ctx context.Context) error {
	status, err := s.c.QueryStatus(ctx)
	if err != nil {
		return err
	}
	switch status.Status {
	case qmp.StateRunning:
		s.runs = true
	case qmp.StatePaused, qmp.StatePrelaunch:
	case qmp.StatePostmigrate:
		return fmt.Errorf("%w: it was paused by an earlier migration; let it run first (QMP: cont)", ErrState)
	default:
		return fmt.Errorf("%w: it is %q (want running or paused)", ErrState, status.Status)
	}
	m, err := s.c.QueryMigrate(ctx)
	if err != nil {
		return err
	}
	if m.Status != "" && m.Status != qmp.MigrationNone && !m.Ended() {
		return fmt.Errorf("%w: a migration is under way (%s)", ErrState, m.Status)
	}
	if len(m.BlockedReasons) > 0 {
		return fmt.Errorf("%w: QEMU says that it cannot be migrated: %s", ErrUnable, strings.Join(m.BlockedReasons, "; "))
	}
	return nil
}

// standStill pauses a machine that QEMU could not save correctly while it
// runs. Without KVM, QEMU before 9.0 forgets to watch a block's pages for new
// writes when it has read which were dirty, if the block is a multiple of 64
// pages, as most are; so some writes of a running guest are never sent, in its
// own migrations too. With KVM the kernel watches.
func (s *save) standStill(ctx context.Context) error {
	if !s.runs || s.opts.AlwaysLive || s.c.Version().Major >= 9 {
		return nil
	}
	var kvm struct{ Enabled bool }
	if err := s.c.Execute(ctx, "query-kvm", nil, &kvm); err != nil {
		return err
	}
	if kvm.Enabled {
		return nil
	}
	s.opts.Logger.Warn("the machine is paused while it is saved: without KVM, QEMU before 9.0 loses writes of a machine that runs", "qemu", fmt.Sprint(s.c.Version()))
	if err := s.c.Stop(ctx); err != nil {
		return err
	}
	s.paused, s.stopped = time.Now(), true
	return nil
}

// migrate runs the migration up to the point where the machine is paused and
// all has arrived.
func (s *save) migrate(ctx context.Context) (*migration.Received, error) {
	dir, err := private(s.c, s.opts.SocketDir)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	addr := migration.Address{Network: "unix", Addr: socketIn(dir)}
	ln, err := addr.Listen(ctx)
	if err != nil {
		return nil, err
	}
	if err := own(s.c, addr.Addr); err != nil {
		ln.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	suppressed := suppressesDescription(ctx, s.c)
	var received *migration.Received
	done := make(chan error, 1)
	go func() {
		var err error
		received, err = migration.Receive(ctx, ln, migration.ReceiveConfig{
			Channels: s.opts.Channels, Method: s.opts.Method, Sink: s.w, StallTimeout: s.opts.StallTimeout,
			// QEMU itself says when it has sent all: see watch.
			Reader:         vmstate.ReaderOptions{NoDescription: suppressed},
			ConnectTimeout: s.opts.ConnectTimeout, Accelerator: s.opts.Accelerator, Progress: &s.prog, Logger: s.opts.Logger,
		})
		done <- err
	}()
	s.report("connect")
	if err := s.c.Migrate(ctx, addr.String()); err != nil {
		cancel(err)
		<-done
		return nil, fmt.Errorf("starting the migration: %w", err)
	}
	watchErr := make(chan error, 1)
	go func() { watchErr <- s.watch(ctx, cancel) }()
	err = <-done
	if err != nil {
		cancel(err)
		return nil, preferred(err, <-watchErr)
	}
	if err := <-watchErr; err != nil {
		return nil, err
	}
	if m := received.UUID; m != ([16]byte{}) {
		s.opts.Logger.Debug("machine", "uuid", hex.EncodeToString(m[:]))
	}
	return received, nil
}

// preferred picks what says most of two ends of one failure. QEMU's word that
// the migration failed says why; connections that closed only say that.
func preferred(receiving, watching error) error {
	if watching != nil && !errors.Is(watching, context.Canceled) && !errors.Is(receiving, watching) && !errors.Is(watching, receiving) {
		if errors.Is(receiving, migration.ErrNobody) {
			return receiving
		}
		return fmt.Errorf("%w (receiving: %w)", watching, receiving)
	}
	return receiving
}

// watch follows the migration at the source until it has ended. A failure
// there cancels the receiving.
func (s *save) watch(ctx context.Context, cancel context.CancelCauseFunc) error {
	const often = 10 * time.Millisecond
	for pushed := false; ; {
		m, err := s.c.QueryMigrate(ctx)
		if err != nil {
			if ctx.Err() == nil {
				err = fmt.Errorf("%w while it was saved: %w", ErrGone, err)
				cancel(err)
			}
			return err
		}
		s.last = m
		switch m.Status {
		case qmp.MigrationCompleted:
			if !s.stopped {
				s.paused = time.Now()
			}
			s.report("paused")
			return nil
		case qmp.MigrationFailed, qmp.MigrationCancelled:
			err := fmt.Errorf("QEMU says that the migration %s: %s", m.Status, orUnknown(m.ErrorDesc))
			// What failed here is why it failed there, and says more: give
			// it the time to show.
			if sleep(ctx, 200*time.Millisecond) == nil {
				cancel(err)
			}
			return err
		}
		s.report("memory")
		if !pushed && s.rounds() > uint64(s.opts.MaxRounds) {
			pushed = true
			s.opts.Logger.Warn("the machine changes its memory faster than it can be saved; pausing it for the rest", "rounds", s.rounds())
			if err := s.c.SetMigrateParameters(ctx, qmp.MigrateParameters{DowntimeLimit: new(qmp.Milliseconds(2_000_000))}); err != nil {
				s.opts.Logger.Warn("raising the downtime limit", "error", err)
			}
		}
		if err := sleep(ctx, often); err != nil {
			return err
		}
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "it does not say why (see its log)"
	}
	return s
}

func (s *save) rounds() uint64 {
	if s.last.RAM == nil {
		return 0
	}
	return s.last.RAM.DirtySyncCount
}

func (s *save) report(phase string) {
	p := SaveProgress{
		Phase: phase, Received: s.prog.Bytes.Load(), Stored: s.w.Bytes(), Normal: s.prog.Normal.Load(), Zero: s.prog.Zero.Load(),
		Elapsed: time.Since(s.began), QEMUStatus: s.last.Status,
	}
	if ram := s.last.RAM; ram != nil {
		p.Round, p.Total, p.Remaining, p.DirtyRate, p.BytesASec = ram.DirtySyncCount, ram.Total, ram.Remaining, ram.DirtyPagesRate, ram.Mbps*1e6/8
		if p.BytesASec > 0 && phase == "memory" {
			p.TimeToGo = time.Duration(float64(ram.Remaining) / p.BytesASec * float64(time.Second))
		}
	}
	s.opts.Progress(p)
}

// goOn lets the machine run again, or not, and puts QEMU's settings back.
func (s *save) goOn(ctx context.Context, before *settings, result *SaveResult) error {
	run := s.runs && !s.opts.StayPaused
	short, cancel := detached(ctx)
	defer cancel()
	if err := settle(short, s.c, run, before); err != nil {
		return err
	}
	result.Paused = time.Since(s.paused)
	if !s.stopped {
		result.Paused += result.Downtime
	}
	status, err := s.c.QueryStatus(short)
	if err != nil {
		return err
	}
	result.RunState = status.Status
	return nil
}

// settle is what a save that fails ends with. It says what state the machine
// is in if that is not as it was.
func (s *save) settle(ctx context.Context, before *settings) error {
	short, cancel := detached(ctx)
	defer cancel()
	err := settle(short, s.c, s.runs, before)
	if errors.Is(err, qmp.ErrClosed) {
		return fmt.Errorf("%w: its monitor is closed, so the machine's state is not known", ErrGone)
	}
	if err != nil {
		return fmt.Errorf("putting the machine in order after that: %w", err)
	}
	return nil
}
