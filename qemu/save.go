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
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/migration/stored"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
)

// SaveOptions say how a running machine is saved. Zero values are defaults.
type SaveOptions struct {
	// Monitor opens the machine's monitor, and opens it again if it ends before the
	// machine is back in its state. Mostly it is a qmp.Socket.
	Monitor qmp.Opener
	// Wire is between QEMU and this process. Its Level is one of SourceLevels. Its
	// Accelerator deflates for the stores fast and dense, too.
	migration.Wire
	Store snapshot.Store // fast
	Tool  string         // noted in the manifest
	// MaxSize is the most bytes that the snapshot has at any moment; 0 is no bound.
	MaxSize int64
	// AtPause is a shell command that runs while the machine is paused at the end,
	// with VMFERRY_SNAPSHOT and VMFERRY_QMP in its environment. If the command
	// fails, the save fails. VMFERRY_QMP is a QMP socket that works during the
	// pause, because QEMU's own is in use: see atPauseMonitor.
	AtPause string
	// AtPauseTimeout is how long the command may take; 30 s. After that Save ends
	// the command, lets the machine run, and fails.
	AtPauseTimeout time.Duration
	// StayPaused leaves the machine paused after a save that succeeds.
	StayPaused bool
	// AlwaysLive lets the machine run during the save even if QEMU is known to lose
	// writes then: see pauseIfWritesGetLost.
	AlwaysLive bool
	// MaxMemory is the most memory that the machine may have;
	// vmstate.DefaultMaxMemory.
	MaxMemory uint64
	// Bandwidth is how many bytes a second QEMU sends at most until the machine is
	// paused at the end; 0 is no bound.
	Bandwidth uint64
	// Downtime is how long the machine may be paused at the end; 300 ms.
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
	Progress func(SaveProgress)
	Logger   *slog.Logger
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

// SaveResult describes a save that succeeded.
type SaveResult struct {
	Manifest *snapshot.Manifest `json:"-"`
	Snapshot string             `json:"snapshot"`
	// Total is the whole time. Paused is how long the machine was paused; 0 if it did
	// not run before.
	Total    time.Duration `json:"total_ns"`
	Paused   time.Duration `json:"paused_ns"`
	Downtime time.Duration `json:"downtime_ns"` // as QEMU reports it, without AtPause
	Rounds   uint64        `json:"rounds"`
	Received uint64        `json:"received_bytes"`
	Bytes    int64         `json:"snapshot_bytes"`
	Pages    uint64        `json:"pages"`
	Zero     uint64        `json:"zero_pages"`
	// RunState is the state of the machine after the save. SavedRunState is the state
	// in the snapshot, in which a restore starts the machine.
	RunState      string `json:"run_state"`
	SavedRunState string `json:"saved_run_state"`
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
		o.Progress = func(SaveProgress) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Save saves a machine to a new directory while the machine runs. After Save, also
// if it fails, the machine is in the state that it was in: a machine that ran runs,
// unless StayPaused is set; a machine that was paused, powered off or broken, before
// or during the save, is left so. A save that fails leaves no snapshot.
//
// A QEMU before 8.1 leaves a machine that does not run in the state postmigrate.
func Save(ctx context.Context, path string, opts SaveOptions) (_ *SaveResult, err error) {
	if err := opts.defaults(); err != nil {
		return nil, err
	}
	if err := SourceLevels(opts.Method).Check("QEMU's "+opts.Method.Name(), opts.Level); err != nil {
		return nil, err
	}
	dir, err := store.CreateDir(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	w, err := snapshot.Create(ctx, dir, snapshot.Options{Store: opts.Store, Tool: opts.Tool, Accelerator: opts.Accelerator, MaxSize: opts.MaxSize})
	if err != nil {
		return nil, errors.Join(err, dir.RemoveDir())
	}
	defer func() {
		if err != nil {
			if abortErr := errors.Join(w.Abort(ctx), dir.RemoveDir()); abortErr != nil {
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
	vm    *qmp.Machine
	dir   *socketDir
	guard *Guard // nil without one
	// recoveryFailed says that this process could not bring the machine back to its
	// state. The guard then does.
	recoveryFailed bool

	sockets *lingerListener // of QEMU's connections, nil before there are any

	// recovery is what has to be done for the machine when the save ends, in any way.
	// The goroutine that receives changes it too: see updateRecovery. recovered says
	// that it is done.
	mu        sync.Mutex
	recovery  recovery
	recovered bool
	pid       int // QEMU's process, 0 if it is not known

	noDescription bool       // the stream ends without a description of the devices
	described     *described // the machine's hardware

	paused     time.Time   // since when the machine is paused
	pauseWatch *pauseWatch // of a machine that must not run during the save; nil otherwise
	last       qmp.Migration
}

func (s *save) run(ctx context.Context) (_ *SaveResult, err error) {
	monitor, err := qmp.OpenWithin(ctx, s.opts.Monitor, 0)
	if err != nil {
		return nil, err
	}
	defer monitor.Close()
	s.vm = qmp.NewMachine(monitor)
	s.vm.SetAnswerTimeout(answerTimeout(s.opts.StallTimeout))
	if cred, err := s.vm.Process(); err == nil {
		s.pid = cred.PID
	}
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
	s.recovery.Monitor, s.recovery.Before = s.opts.Monitor, p.before
	// The guard runs before the first change.
	if err := s.startGuard(); err != nil {
		return nil, err
	}
	defer s.endGuard()
	if s.dir, err = makeSocketDir(s.vm, s.opts.SocketDir); err != nil {
		return nil, err
	}
	defer s.removeSocketDir()
	defer s.releaseSockets() // when the migration has ended
	defer func() {
		if !s.recovered {
			err = s.recoverMachine(ctx, err)
		}
	}()
	dir, err := s.dir.identity()
	if err != nil {
		return nil, err
	}
	if err := s.updateRecovery(func(r *recovery) { r.Dir = dir }); err != nil {
		return nil, err
	}
	if err := p.apply(ctx, s.vm); err != nil {
		return nil, err
	}
	if err := s.pauseIfWritesGetLost(ctx); err != nil {
		return nil, err
	}
	if s.pauseWatch != nil {
		defer s.pauseWatch.close()
	}
	received, err := s.migrate(ctx)
	if err == nil {
		err = s.checkPaused(ctx)
	}
	if err != nil {
		return nil, err
	}
	result := &SaveResult{Snapshot: s.path, Rounds: s.rounds(), Received: s.opts.Counters.Bytes.Load(), Downtime: s.last.Downtime.Duration()}
	if err := s.atPause(ctx); err != nil {
		return nil, err
	}
	// The machine runs again before the snapshot is flushed to the disk.
	if err := s.restoreMachine(ctx, result); err != nil {
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
	m, err := s.w.Finish(ctx, meta)
	if err != nil {
		return nil, err
	}
	result.SavedRunState = meta.Machine.RunState
	result.Manifest, result.Bytes, result.Pages, result.Zero = m, m.Bytes(), m.Totals.Pages, m.Totals.Zero
	result.Total = time.Since(s.began)
	return result, nil
}

// checkState refuses a machine that cannot be saved in its state, before any change.
func (s *save) checkState(ctx context.Context) error {
	status, err := s.vm.QueryStatus(ctx)
	if err != nil {
		return err
	}
	if err := checkSavable(s.vm, status.Status); err != nil {
		return err
	}
	s.recovery.Ran = live(status.Status)
	m, err := s.vm.QueryMigrate(ctx)
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
	return s.vm.AwaitMigrationCleanup(short)
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
	return makePlan(ctx, s.vm, migrationSettings{
		channels: s.opts.Channels, method: s.opts.Method, level: s.opts.Level,
		returnPath: keepsState(s.vm.Version()) && !s.noDescription,
		bandwidth:  s.opts.Bandwidth, downtime: s.opts.Downtime,
	})
}

// pauseIfWritesGetLost pauses a machine that QEMU does not save correctly while the
// machine runs. Without KVM, QEMU before 9.0 stops to track the writes to a block
// after it has read the block's dirty pages, if the block is a multiple of 64 pages,
// as most are. So QEMU never sends some writes of a running guest, in its own
// migrations too. QEMU from 9.0 on does so with some blocks: see forgetsWrites. With
// KVM the kernel tracks the writes.
func (s *save) pauseIfWritesGetLost(ctx context.Context) error {
	if s.opts.AlwaysLive || s.described.hardware.KVM {
		return nil
	}
	why := "without KVM, QEMU before 9.0 loses writes of a machine that runs"
	if s.vm.Version().Major >= 9 {
		if !s.described.forgetsWrites() {
			return nil
		}
		why = "without KVM, QEMU from 9.0 on loses writes of a machine that runs, or aborts, if its memory has several blocks or is not the first (KVM helps, or a single memory backend that comes first on the command line)"
	}
	if !s.recovery.Ran {
		s.pauseWatch = watchPause(s.vm) // nothing else may let it run before the end
		return nil
	}
	s.opts.Logger.Warn("the machine is paused while it is saved: "+why, "qemu", fmt.Sprint(s.vm.Version()))
	if err := s.updateRecovery(func(r *recovery) { r.Stopped = true }); err != nil {
		return err
	}
	s.paused = time.Now()
	if err := s.vm.Stop(ctx); err != nil {
		return err
	}
	s.pauseWatch = watchPause(s.vm)
	return nil
}

func (s *save) rounds() uint64 {
	if s.last.RAM == nil {
		return 0
	}
	return s.last.RAM.DirtySyncCount
}

func (s *save) report(phase string) {
	p := SaveProgress{
		Phase: phase, Received: s.opts.Counters.Bytes.Load(), Stored: s.w.Bytes(), Normal: s.opts.Counters.Normal.Load(), Zero: s.opts.Counters.Zero.Load(),
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
