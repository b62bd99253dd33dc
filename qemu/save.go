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
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/pagecodec"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/snapshot"
)

// SaveOptions say how a running machine is saved. Zero values are defaults.
type SaveOptions struct {
	// QMP is the path of the machine's QMP socket.
	QMP      string
	Channels int            // 2
	Method   multifd.Method // none
	Level    int            // one of SourceLevels, or 0 for the method's default
	Store    snapshot.Store // fast
	Tool     string         // noted in the manifest
	// MaxSize bounds the bytes of the snapshot at any moment; 0 does not.
	MaxSize int64
	// AtPause is a shell command that is run while the machine is paused at
	// the end, with VMFERRY_SNAPSHOT and VMFERRY_QMP in its environment. If
	// it fails, so does the save. VMFERRY_QMP is a QMP socket that works during
	// the pause, because QEMU's own is in use: see atPauseMonitor.
	AtPause string
	// AtPauseTimeout is how long the command may take; 30 s. Then it is ended,
	// the machine runs on, and the save fails.
	AtPauseTimeout time.Duration
	// StayPaused leaves the machine paused after a save that went well.
	StayPaused bool
	// AlwaysLive lets the machine run while it is saved also where QEMU
	// itself is known to lose writes then: see standStill.
	AlwaysLive bool
	// MaxMemory bounds the memory of the machine; vmstate.DefaultMaxMemory.
	MaxMemory uint64
	// Bandwidth bounds the source until the machine is paused at the end, in
	// bytes a second; 0 does not.
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
	Accelerator *pagecodec.Accelerator
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
	// Total is the whole time, Paused how long the machine stood still; 0 if it did
	// not run before.
	Total    time.Duration `json:"total_ns"`
	Paused   time.Duration `json:"paused_ns"`
	Downtime time.Duration `json:"downtime_ns"` // by QEMU's count, without AtPause
	Rounds   uint64        `json:"rounds"`
	Received uint64        `json:"received_bytes"`
	Bytes    int64         `json:"snapshot_bytes"`
	Pages    uint64        `json:"pages"`
	Zero     uint64        `json:"zero_pages"`
	// RunState is the state that the machine was left in, and SavedRunState the one
	// in the snapshot, in which a restore brings it up.
	RunState      string `json:"run_state"`
	SavedRunState string `json:"saved_run_state"`
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
}

// Save saves a machine to a new directory while it runs. Whatever happens, the
// machine is afterwards in the state that it was in: it runs on if it ran, unless
// StayPaused; a machine that was paused, powered off or broken, before or during the
// save, is left so. A save that fails leaves no snapshot.
//
// A QEMU before 8.1 leaves a machine that does not run in the state postmigrate.
func Save(ctx context.Context, path string, opts SaveOptions) (_ *SaveResult, err error) {
	opts.defaults()
	if err := SourceLevels(opts.Method).Check("QEMU's "+opts.Method.Name(), opts.Level); err != nil {
		return nil, err
	}
	dir, err := snapshot.CreateDir(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	w, err := snapshot.Create(dir, snapshot.Options{Store: opts.Store, Tool: opts.Tool, Accelerator: opts.Accelerator, MaxSize: opts.MaxSize})
	if err != nil {
		return nil, errors.Join(err, dir.RemoveDir())
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
	dir   *socketDir
	guard *Guard // nil without one
	// unsettled says that the machine could not be put in order, so the guard has to.
	unsettled bool

	sockets *lingerListener // of QEMU's connections, nil before there are any

	prog migration.Progress

	// recovery is what has to be done for the machine when the save ends, in any way;
	// recovered says that it is done. The receiving changes it too: see note.
	mu        sync.Mutex
	recovery  recovery
	recovered bool
	pid       int // QEMU's process, 0 if it is not known

	noDescription bool       // the machine's stream ends without a description
	described     *described // what the machine is made of

	paused time.Time  // since when the machine stands still
	still  *stillness // of a machine that may not run while it is saved, nil otherwise
	last   qmp.Migration
}

func (s *save) run(ctx context.Context) (_ *SaveResult, err error) {
	if s.c, err = qmp.Dial(ctx, s.opts.QMP); err != nil {
		return nil, err
	}
	defer s.c.Close()
	s.c.SetAnswerTimeout(answerTimeout(s.opts.StallTimeout))
	if cred, err := s.c.PeerCred(); err == nil {
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
	s.recovery.QMP, s.recovery.Before = s.opts.QMP, p.before
	// The guard stands before the first thing is changed.
	if err := s.startGuard(); err != nil {
		return nil, err
	}
	defer s.endGuard()
	if s.dir, err = makeSocketDir(s.c, s.opts.SocketDir); err != nil {
		return nil, err
	}
	defer s.removeSocketDir()
	defer s.releaseSockets() // when the migration has ended
	defer func() {
		if !s.recovered {
			err = s.recoverMachine(ctx, err)
		}
	}()
	left, err := s.dir.left()
	if err != nil {
		return nil, err
	}
	if err := s.note(func(r *recovery) { r.Dir = left }); err != nil {
		return nil, err
	}
	if err := p.apply(ctx, s.c); err != nil {
		return nil, err
	}
	if err := s.standStill(ctx); err != nil {
		return nil, err
	}
	if s.still != nil {
		defer s.still.close()
	}
	received, err := s.migrate(ctx)
	if err == nil {
		err = s.checkStill(ctx)
	}
	if err != nil {
		return nil, err
	}
	result := &SaveResult{Snapshot: s.path, Rounds: s.rounds(), Received: s.prog.Bytes.Load(), Downtime: s.last.Downtime.Duration()}
	if err := s.atPause(ctx); err != nil {
		return nil, err
	}
	// The machine runs again before the snapshot is flushed to the disk,
	// which does not concern it.
	if err := s.runOn(ctx, result); err != nil {
		return nil, err
	}
	s.report("finish")
	meta := received.Meta()
	if s.recovery.ranAtPause() && !live(s.recovery.Saved) {
		meta.Machine.RunState = qmp.StateRunning // the save itself had paused it
	}
	meta.Machine.QEMU = fmt.Sprintf("%d.%d.%d", s.c.Version().Major, s.c.Version().Minor, s.c.Version().Micro)
	if meta.Machine.Hardware, err = s.described.record(); err != nil {
		s.opts.Logger.Warn("the snapshot does not say what the machine was made of", "error", err)
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

// checkState refuses what could not end well, before anything is touched.
func (s *save) checkState(ctx context.Context) error {
	status, err := s.c.QueryStatus(ctx)
	if err != nil {
		return err
	}
	if err := checkSavable(s.c, status.Status); err != nil {
		return err
	}
	s.recovery.Ran = live(status.Status)
	m, err := s.c.QueryMigrate(ctx)
	if err != nil {
		return err
	}
	if m.Status != "" && m.Status != qmp.MigrationNone && !m.Ended() {
		return fmt.Errorf("%w: a migration is under way (%s)", ErrState, m.Status)
	}
	if len(m.BlockedReasons) > 0 {
		return fmt.Errorf("%w: QEMU says that it cannot be migrated: %s", ErrUnable, termtext.Text(strings.Join(m.BlockedReasons, "; ")))
	}
	// An earlier migration may have ended a moment ago.
	short, cancel := context.WithTimeoutCause(ctx, cleanupTime, fmt.Errorf("%w: QEMU has not cleaned an earlier migration up after %v", ErrState, cleanupTime))
	defer cancel()
	return s.c.AwaitMigrationCleanup(short)
}

// plan finds out what has to be set. The return path lets the end of the migration
// wait for this side, and fail if the machine does not run: see errNotRunning. A
// machine that sends no description cannot have one, because the end of its stream
// is that of the connection.
func (s *save) plan(ctx context.Context) (*plan, error) {
	var err error
	if s.noDescription, err = suppressesDescription(ctx, s.c); err != nil {
		return nil, err
	}
	return makePlan(ctx, s.c, wish{
		channels: s.opts.Channels, method: s.opts.Method, level: s.opts.Level,
		returnPath: keepsState(s.c.Version()) && !s.noDescription,
		bandwidth:  s.opts.Bandwidth, downtime: s.opts.Downtime,
	})
}

// standStill pauses a machine that QEMU could not save correctly while it
// runs. Without KVM, QEMU before 9.0 forgets to watch a block's pages for new
// writes when it has read which were dirty, if the block is a multiple of 64
// pages, as most are; so some writes of a running guest are never sent, in its
// own migrations too. From 9.0 on it does so with some blocks: see
// forgetsWrites. With KVM the kernel watches.
func (s *save) standStill(ctx context.Context) error {
	if s.opts.AlwaysLive || s.described.hardware.KVM {
		return nil
	}
	why := "without KVM, QEMU before 9.0 loses writes of a machine that runs"
	if s.c.Version().Major >= 9 {
		if !s.described.forgetsWrites() {
			return nil
		}
		why = "without KVM, QEMU from 9.0 on loses writes of a machine that runs, or aborts, if its memory has several blocks or is not the first (KVM helps, or a single memory backend that comes first on the command line)"
	}
	if !s.recovery.Ran {
		s.still = watchStillness(s.c) // it may not be let run before the end
		return nil
	}
	s.opts.Logger.Warn("the machine is paused while it is saved: "+why, "qemu", fmt.Sprint(s.c.Version()))
	if err := s.note(func(r *recovery) { r.Stopped = true }); err != nil {
		return err
	}
	s.paused = time.Now()
	if err := s.c.Stop(ctx); err != nil {
		return err
	}
	s.still = watchStillness(s.c)
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
