package qemu

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qemu/agreement"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/relay"
	"github.com/vmferry/vmferry/transport"
)

var (
	// ErrDiverges is wrapped if the machine writes to its memory faster than the link
	// carries it, and DivergingGiveUp says to stop then.
	ErrDiverges = errors.New("the machine writes to its memory faster than it can be sent")
	// ErrUndecided is wrapped if the connection broke when the machine was handed over,
	// and it is not known whether the machine runs at the destination. The source is
	// left paused.
	ErrUndecided = errors.New("it is not known whether the machine runs at the destination")
)

// Diverging says what to do with a machine whose memory does not converge.
type Diverging string

const (
	// DivergingGiveUp cancels the migration: the machine runs on at the source.
	DivergingGiveUp Diverging = "give-up"
	// DivergingThrottle has QEMU slow the machine down from the start (auto-converge).
	// After MaxRounds the machine is paused, however long the rest takes.
	DivergingThrottle Diverging = "throttle"
	// DivergingStop pauses the machine after MaxRounds, however long the rest takes.
	DivergingStop Diverging = "stop"
)

// MigrateOptions say which machine moves, and where to. Zero values are defaults.
type MigrateOptions struct {
	// Monitor opens the source's monitor, and opens it again if it ends before the
	// machine is back in its state. Mostly it is a qmp.Socket.
	Monitor qmp.Opener
	// Destination, if not nil, opens the monitor of a QEMU on this host that was
	// started with "-incoming defer". Otherwise another process runs Accept: Connect
	// is where it listens. Dial, if not nil, is used in place of Connect and TLS.
	Destination qmp.Opener
	Connect     transport.Address
	Dial        transport.Dialer
	// TLS, if not nil, is used for every connection, in version 1.3 or later.
	TLS *tls.Config
	// Relay configures what carries QEMU's connections to the other host. OneMigration
	// and Bandwidth are set.
	Relay relay.Config
	// Channels is the number of QEMU's multifd channels; 2.
	Channels int
	// Bandwidth is how many bytes a second are sent at most; 0 is no bound.
	Bandwidth uint64
	// Downtime is how long the machine may be paused at the end; 300 ms.
	Downtime time.Duration
	// MaxRounds is the number of rounds after which Diverging applies; 30.
	MaxRounds int
	// Diverging is what to do then; DivergingGiveUp.
	Diverging Diverging
	// DryRun compares the two sides and changes nothing.
	DryRun bool
	// AtPause is a shell command that runs while the machine is paused at the end, with
	// VMFERRY_QMP in its environment, as in SaveOptions. If the command fails, the
	// migration fails.
	AtPause string
	// AtPauseTimeout is how long the command may take; 30 s.
	AtPauseTimeout time.Duration
	// AlwaysLive is that of SaveOptions.
	AlwaysLive bool
	// ConnectTimeout is how long Migrate tries to connect while no process listens at
	// the destination; 10 s, negative for a single attempt.
	ConnectTimeout time.Duration
	// StallTimeout bounds QEMU's answers; 0 is 2 minutes, negative is forever.
	StallTimeout time.Duration
	// LinkTimeout is how long the destination may send nothing; 30 s.
	LinkTimeout time.Duration
	// Inquiry is how long Migrate asks the destination for the outcome, after the
	// connection broke when the machine was handed over; 30 s.
	Inquiry time.Duration
	// SocketDir is the directory for the socket between QEMU and this process.
	SocketDir string
	// Guard is the command that runs RunGuard; without it a killed process may leave
	// the machine paused.
	Guard []string
	// Tool names the program to the destination.
	Tool     string
	Progress func(migration.Progress)
	Logger   *slog.Logger
}

// Values of MigrateResult.Runs and AcceptResult.Runs.
const (
	atSource      = "source"
	atDestination = "destination"
)

// MigrateResult describes a migration that succeeded, or the comparison of a dry run.
// Durations in its JSON are in nanoseconds.
type MigrateResult struct {
	// Destination is the address, or the monitor on the same host.
	Destination string `json:"destination"`
	DryRun      bool   `json:"dry_run"`
	// QEMU and DestinationQEMU are versions; Machine is the machine type.
	QEMU            string `json:"qemu"`
	DestinationQEMU string `json:"destination_qemu"`
	Machine         string `json:"machine"`
	// Differences are how the destination differs: the migration would fail. Remarks
	// are differences that do not make it fail.
	Differences []string `json:"differences"`
	Remarks     []string `json:"remarks"`
	// Total is the whole time. Paused is how long the machine was paused, 0 if it did
	// not run before. Downtime is the same as QEMU reports it, without the handover.
	// Handover is the part of Paused after QEMU's migration had completed.
	Total    time.Duration `json:"total_ns"`
	Paused   time.Duration `json:"paused_ns"`
	Downtime time.Duration `json:"downtime_ns"`
	Handover time.Duration `json:"handover_ns"`
	// Rounds are the passes over the dirty pages. Sent is what QEMU sent, and Link what
	// of it went over the links to the other host, in bytes; Link is 0 on one host.
	// Pages are the pages with data, Zero the zero pages.
	Rounds uint64 `json:"rounds"`
	Sent   uint64 `json:"sent_bytes"`
	Link   uint64 `json:"link_bytes"`
	Pages  uint64 `json:"pages"`
	Zero   uint64 `json:"zero_pages"`
	// Runs says where the machine is: "destination", or "source" after a dry run.
	// RunState is its state there, SourceState that of the source's QEMU.
	Runs        string `json:"runs"`
	RunState    string `json:"run_state"`
	SourceState string `json:"source_state"`
}

func (o *MigrateOptions) defaults() error {
	if o.Channels == 0 {
		o.Channels = 2
	}
	if o.Channels < 1 || o.Channels > multifd.MaxChannels {
		return fmt.Errorf("%w: %d channels (want 1 to %d)", transport.ErrChannels, o.Channels, multifd.MaxChannels)
	}
	switch o.Diverging {
	case "":
		o.Diverging = DivergingGiveUp
	case DivergingGiveUp, DivergingThrottle, DivergingStop:
	default:
		return fmt.Errorf("%w: no such Diverging %q", ErrUnable, o.Diverging)
	}
	for _, d := range []struct {
		is *time.Duration
		to time.Duration
	}{
		{&o.Downtime, 300 * time.Millisecond}, {&o.AtPauseTimeout, 30 * time.Second}, {&o.ConnectTimeout, 10 * time.Second},
		{&o.LinkTimeout, agreement.DefaultSilence}, {&o.Inquiry, defaultInquiry},
	} {
		if *d.is == 0 {
			*d.is = d.to
		}
	}
	if o.MaxRounds == 0 {
		o.MaxRounds = 30
	}
	if o.Progress == nil {
		o.Progress = func(migration.Progress) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Relay.OneMigration, o.Relay.Bandwidth = true, o.Bandwidth
	if o.Relay.LinkTimeout == 0 {
		o.Relay.LinkTimeout = o.LinkTimeout
	}
	if o.Relay.Logger == nil {
		o.Relay.Logger = o.Logger
	}
	return nil
}

// Migrate moves a machine to another QEMU while the machine runs: on another host, where
// Accept runs, or on this one. After Migrate succeeds, the machine is the destination's
// and the source's QEMU holds a paused copy, which must not run. If Migrate fails, the
// machine is at the source in the state that it was in, and the error says so, unless the
// error wraps ErrUndecided or ErrGone.
//
// With DryRun, a *MismatchError comes with a result.
func Migrate(ctx context.Context, opts MigrateOptions) (*MigrateResult, error) {
	if err := opts.defaults(); err != nil {
		return nil, err
	}
	m := &migrate{opts: opts, began: time.Now(), outgoing: outgoing{
		task: migrating, monitor: opts.Monitor, guardBy: opts.Guard, socketDir: opts.SocketDir, stall: opts.StallTimeout, alwaysLive: opts.AlwaysLive, logger: opts.Logger,
	}}
	if opts.Destination != nil {
		m.peer = newLocalPeer(&m.opts)
	} else {
		m.peer = newRemotePeer(&m.opts)
	}
	return m.run(ctx)
}

// migrate is one migration under way.
type migrate struct {
	outgoing
	opts  MigrateOptions
	began time.Time
	peer  peer
	side  *side

	atSwitchover bool      // the command at the pause has run
	pushed       bool      // MaxRounds has passed
	loadedAs     string    // the run state at the destination, once it has loaded the machine
	completed    time.Time // when QEMU had completed the migration
}

func (m *migrate) run(ctx context.Context) (result *MigrateResult, err error) {
	monitor, err := m.open(ctx)
	if err != nil {
		return nil, err
	}
	defer monitor.Close()
	if err := m.inspect(ctx); err != nil {
		return nil, err
	}
	if err := m.checkState(ctx); err != nil {
		return nil, err
	}
	m.report("compare")
	defer func() { m.peer.close(ctx) }()
	answer, err := m.peer.agree(ctx, m.side.description)
	if err != nil {
		return nil, m.explain(ctx, err)
	}
	result = m.result(answer)
	if len(answer.Differences) > 0 {
		err = &MismatchError{Differences: answer.Differences, migration: true}
	}
	if m.opts.DryRun {
		return result, err
	}
	if err != nil {
		return nil, err
	}
	p, err := m.plan(ctx, answer.Description)
	if err != nil {
		return nil, err
	}
	if err := m.move(ctx, p, result); err != nil {
		return nil, m.explain(ctx, err)
	}
	result.Total = time.Since(m.began)
	return result, nil
}

// move sends the machine and hands it over.
func (m *migrate) move(ctx context.Context, p *plan, result *MigrateResult) (err error) {
	// The carrying ends after QEMU has ended the migration, and before the sockets are
	// freed.
	defer func() {
		m.peer.stop(err)
		err = m.finish(ctx, err)
	}()
	if err := m.startGuard(); err != nil {
		return err
	}
	if err := m.begin(ctx, p); err != nil {
		return err
	}
	stops := m.vm.Subscribe("STOP")
	defer stops.Close()
	to, err := m.peer.start(ctx, &m.outgoing)
	if err != nil {
		return err
	}
	m.report("connect")
	m.logger.Debug("the migration begins", "qemu", fmt.Sprint(m.vm.Version()), "to", to)
	if err := m.vm.Migrate(ctx, to); err != nil {
		return fmt.Errorf("starting the migration: %w", err)
	}
	m.vm.SetAnswerTimeout(0) // QEMU's main loop may not answer while it sends the rest
	err = m.watch(ctx, stops)
	m.vm.SetAnswerTimeout(answerTimeout(m.stall))
	if err != nil {
		return err
	}
	return m.handOver(ctx, result)
}

func (m *migrate) result(answer *agreement.Message) *MigrateResult {
	result := &MigrateResult{
		Destination: m.peer.name(), DryRun: m.opts.DryRun, QEMU: fmt.Sprint(m.vm.Version()), DestinationQEMU: answer.Description.QEMU,
		Machine: m.side.description.Machine, Differences: answer.Differences, Remarks: answer.Remarks,
		Runs: atSource, RunState: m.side.description.RunState, SourceState: m.side.description.RunState, Total: time.Since(m.began),
	}
	for _, lines := range []*[]string{&result.Differences, &result.Remarks} {
		if *lines == nil {
			*lines = []string{}
		}
	}
	return result
}

// inspect asks for the machine's hardware, and refuses a machine that makes QEMU abort.
func (m *migrate) inspect(ctx context.Context) (err error) {
	if m.side, err = describeSide(ctx, m.vm, m.opts.Tool); err != nil {
		return err
	}
	m.described = m.side.described
	for _, d := range m.described.hardware.Devices {
		if why := m.abortsUnderTCG(d.Type); why != "" {
			return fmt.Errorf("%w: %s cannot be migrated: %s", ErrUnable, deviceName(d), why)
		}
	}
	return nil
}

// plan determines the settings of the source.
func (m *migrate) plan(ctx context.Context, destination *agreement.Description) (*plan, error) {
	want := migrationSettings{
		channels: m.opts.Channels, method: multifd.None, returnPath: true, bandwidth: unlimited, downtime: m.opts.Downtime,
		capabilities: []string{"late-block-activate"}, zeroLegacy: before9(destination.QEMU),
	}
	if m.opts.Destination != nil && m.opts.Bandwidth > 0 {
		want.bandwidth = m.opts.Bandwidth // otherwise the relay bounds the link
	}
	if m.opts.AtPause != "" {
		want.capabilities = append(want.capabilities, "pause-before-switchover")
	}
	if m.opts.Diverging == DivergingThrottle {
		want.capabilities = append(want.capabilities, "auto-converge")
	}
	return makePlan(ctx, m.vm, want)
}

// before9 tells whether a version of QEMU is before 9.0, or not known.
func before9(version string) bool {
	var major int
	_, err := fmt.Sscanf(version, "%d.", &major)
	return err != nil || major < 9
}

func (m *migrate) report(phase string) {
	p := migration.Progress{Task: migration.TaskMigrate, Phase: phase, Link: m.peer.linkBytes(), Elapsed: time.Since(m.began), QEMUStatus: m.last.Status}
	if ram := m.last.RAM; ram != nil {
		p.Round, p.TotalBytes, p.Remaining, p.DirtyPagesPerSecond, p.BytesPerSecond = ram.DirtySyncCount, ram.Total, ram.Remaining, ram.DirtyPagesRate, ram.Mbps*1e6/8
		p.Sent, p.Normal, p.Zero = ram.Transferred, ram.Normal, ram.Duplicate
		p.ExpectedDowntime, p.Throttle = m.last.ExpectedDowntime.Duration(), m.last.CPUThrottle
		if p.BytesPerSecond > 0 && phase == "memory" {
			p.TimeToGo = time.Duration(float64(ram.Remaining) / p.BytesPerSecond * float64(time.Second))
		}
	}
	m.opts.Progress(p)
}
