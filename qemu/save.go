package qemu

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/migration/stored"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/snapshot"
)

// SaveOptions say how a running machine is saved. Zero values are defaults.
type SaveOptions struct {
	// Monitor opens the machine's monitor, and opens it again if it ends before the
	// machine is back in its state. Mostly it is a qmp.Socket.
	Monitor qmp.Opener
	// Wire is between QEMU and this process. Its Level is one of SourceLevels.
	migration.Wire
	// Snapshot names the snapshot for the command AtPause.
	Snapshot string
	// AtPause is a shell command that runs while the machine is paused at the end,
	// with VMFERRY_SNAPSHOT and VMFERRY_QMP in its environment. If the command
	// fails, the save fails. VMFERRY_QMP is a QMP socket that works during the
	// pause, because QEMU's own is in use. It refuses cont, stop, loadvm and
	// migrate.
	AtPause string
	// AtPauseTimeout is how long the command may take; 30 s. After that Save ends
	// the command, lets the machine run, and fails.
	AtPauseTimeout time.Duration
	// StayPaused leaves the machine paused after a save that succeeds.
	StayPaused bool
	// AlwaysLive lets the machine run during the save even if QEMU is known to lose
	// writes then, as some QEMUs do without KVM. Otherwise such a machine is paused,
	// with a warning.
	AlwaysLive bool
	// MaxMemory is the most memory that the machine may have;
	// vmstate.DefaultMaxMemory.
	MaxMemory uint64
	// Bandwidth is how many bytes a second QEMU sends at most until the machine is
	// paused at the end; 0 is no bound.
	Bandwidth uint64
	// Downtime is how long the machine may be paused at the end; 300 ms. Save sends
	// further rounds as long as they shorten the pause.
	Downtime time.Duration
	// MaxRounds is the number of rounds after which the machine is paused, however
	// long the rest takes; 30.
	MaxRounds int
	// ConnectTimeout bounds the wait for QEMU's connections; 30 s.
	ConnectTimeout time.Duration
	// SocketDir is the directory for the socket between QEMU and this process; by
	// default the directory for temporary files.
	SocketDir string
	// Guard is the command that runs RunGuard; without it a killed process
	// may leave the machine paused.
	Guard    []string
	Progress func(migration.Progress)
	Logger   *slog.Logger
}

// Saved describes a machine whose memory and device state are in a snapshot.Writer.
type Saved struct {
	// Meta is for snapshot.Writer.Finish.
	Meta snapshot.Meta
	// Paused is how long the machine was paused; 0 if it did not run before.
	// Downtime is the same as QEMU reports it, without AtPause.
	Paused, Downtime time.Duration
	Rounds           uint64
	// Received is what the connections carried, in bytes.
	Received uint64
	// RunState is the state of the machine after the save. That in the snapshot, in
	// which a restore starts the machine, is in Meta.
	RunState string
}

func (o *SaveOptions) defaults() (err error) {
	if o.Wire, err = o.Wire.WithDefaults(); err != nil {
		return err
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
	if o.AtPauseTimeout == 0 {
		o.AtPauseTimeout = 30 * time.Second
	}
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = 30 * time.Second
	}
	if o.Progress == nil {
		o.Progress = func(migration.Progress) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Save puts the memory of a machine into w while the machine runs, and returns what else
// a snapshot keeps. The caller finishes w, or aborts it after an error. After Save, also
// if it fails, the machine is in the state that it was in: a machine that ran runs,
// unless StayPaused is set; a machine that was paused, powered off or broken, before or
// during the save, is left so.
//
// A QEMU before 8.1 leaves a machine that does not run in the state postmigrate.
func Save(ctx context.Context, w *snapshot.Writer, opts SaveOptions) (*Saved, error) {
	if err := opts.defaults(); err != nil {
		return nil, err
	}
	if err := SourceLevels(opts.Method).Check("QEMU's "+opts.Method.Name(), opts.Level); err != nil {
		return nil, err
	}
	s := &save{opts: opts, w: w, began: time.Now(), outgoing: outgoing{
		task: saving, monitor: opts.Monitor, guardBy: opts.Guard, socketDir: opts.SocketDir, stall: opts.StallTimeout, alwaysLive: opts.AlwaysLive, logger: opts.Logger,
	}}
	return s.run(ctx)
}

// save is one save under way.
type save struct {
	outgoing
	opts  SaveOptions
	w     *snapshot.Writer
	began time.Time

	noDescription bool // the stream ends without a description of the devices
	downtime      *downtimeSteps
	changes       *qmp.Subscription // the events of the migration
	pushed        bool              // MaxRounds has passed
	// arrived is when all data had arrived here, completed when QEMU had reported the
	// end of the migration; both while the machine is paused.
	arrived, completed time.Time
}

func (s *save) run(ctx context.Context) (_ *Saved, err error) {
	if err := s.startGuard(); err != nil {
		return nil, err
	}
	defer s.endGuard()
	monitor, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	defer monitor.Close()
	if err := s.inspect(ctx); err != nil {
		return nil, err
	}
	if err := s.checkState(ctx); err != nil {
		return nil, err
	}
	p, err := s.plan(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = s.finish(ctx, err) }()
	if err := s.begin(ctx, p); err != nil {
		return nil, err
	}
	received, err := s.migrate(ctx)
	if err == nil {
		err = s.checkPaused(ctx)
	}
	if err != nil {
		return nil, err
	}
	saved := &Saved{Rounds: s.rounds(), Received: s.opts.Counters.Bytes.Load(), Downtime: s.last.Downtime.Duration()}
	if err := s.runAtPause(ctx, atPauseCommand{command: s.opts.AtPause, timeout: s.opts.AtPauseTimeout, env: []string{"VMFERRY_SNAPSHOT=" + s.opts.Snapshot}}); err != nil {
		return nil, err
	}
	// The machine runs again before the snapshot is flushed to the disk.
	if err := s.restoreMachine(ctx, saved); err != nil {
		return nil, err
	}
	s.report("finish")
	meta := stored.Meta(received)
	if s.recovery.ranAtPause() && !live(s.recovery.Saved) {
		meta.Machine.RunState = qmp.StateRunning // the save itself had paused it
	}
	meta.Machine.QEMU = fmt.Sprintf("%d.%d.%d", s.vm.Version().Major, s.vm.Version().Minor, s.vm.Version().Micro)
	if meta.Machine.Hardware, err = s.described.record(); err != nil {
		s.opts.Logger.Warn("the snapshot has no record of the hardware", "error", err)
	}
	saved.Meta = meta
	return saved, nil
}

// restoreMachine brings the machine back to its state, or leaves it paused for
// StayPaused, and restores QEMU's settings.
func (s *save) restoreMachine(ctx context.Context, saved *Saved) error {
	if err := s.updateRecovery(func(r *recovery) { r.KeepPaused = s.opts.StayPaused }); err != nil {
		return err
	}
	short, cancel := detached(ctx)
	defer cancel()
	if err := s.recovery.restoreRunState(short, s.vm); err != nil {
		return err
	}
	if s.recovery.ranAtPause() {
		saved.Paused = time.Since(s.paused)
		s.opts.Logger.Debug("the machine was paused", "for", saved.Paused, "arrived", s.arrived.Sub(s.paused), "completed", s.completed.Sub(s.paused), "qemu", saved.Downtime)
	}
	if err := s.recovery.restoreSettings(short, s.vm); err != nil {
		return err
	}
	s.recovered = true
	status, err := s.vm.QueryStatus(short)
	if err != nil {
		return err
	}
	saved.RunState = status.Status
	return nil
}

// plan determines the settings of the migration. With a return path QEMU waits for
// this side at the end of the migration, which can then fail: see errNotRunning. A
// machine that sends no description of its devices gets no return path, because its
// stream ends with the connection.
func (s *save) plan(ctx context.Context) (*plan, error) {
	var err error
	if s.noDescription, err = suppressesDescription(ctx, s.vm); err != nil {
		return nil, err
	}
	s.downtime = newDowntimeSteps(s.opts.Downtime, s.opts.MaxRounds)
	if s.losesWrites() != "" { // each further round of a machine that runs can lose some
		s.downtime = newDowntimeSteps(s.opts.Downtime, 0)
	}
	return makePlan(ctx, s.vm, migrationSettings{
		channels: s.opts.Channels, method: s.opts.Method, level: s.opts.Level,
		returnPath: keepsState(s.vm.Version()) && !s.noDescription,
		bandwidth:  s.opts.Bandwidth, downtime: s.downtime.limit,
	})
}

func (s *save) report(phase string) {
	counters := s.opts.Counters
	p := migration.Progress{
		Task: migration.TaskSave, Phase: phase, Received: counters.Bytes.Load(), Stored: s.w.Bytes(), Normal: counters.Normal.Load(), Zero: counters.Zero.Load(),
		Elapsed: time.Since(s.began), QEMUStatus: s.last.Status,
	}
	if ram := s.last.RAM; ram != nil {
		p.Round, p.TotalBytes, p.Remaining, p.DirtyPagesPerSecond, p.BytesPerSecond = ram.DirtySyncCount, ram.Total, ram.Remaining, ram.DirtyPagesRate, ram.Mbps*1e6/8
		if p.BytesPerSecond > 0 && phase == "memory" {
			p.TimeToGo = time.Duration(float64(ram.Remaining) / p.BytesPerSecond * float64(time.Second))
		}
	}
	s.opts.Progress(p)
}
