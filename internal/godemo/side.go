package godemo

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/machine"
	"github.com/vmferry/vmferry/live"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
)

// Config configures both sides, which must have the same one.
type Config struct {
	Machine  machine.Config
	Channels int
	Method   string
	// Bandwidth is in bytes a second; 0 means no limit. Downtime, LinkTimeout and
	// Inquiry are those of live.Config.
	Bandwidth   uint64
	Downtime    time.Duration
	LinkTimeout time.Duration
	Inquiry     time.Duration
	// StandStill is that of live.Config. It includes the time in which the
	// destination hashes all memory.
	StandStill time.Duration
	// FollowSpeed limits the writers to a fraction of the pages a second that the
	// rounds send, so that the migration converges on a slow processor too. If it
	// does not converge, the machine stays paused for longer than Downtime.
	FollowSpeed bool
	// WarmUp is the least time for which the source writes before it migrates. GoOn
	// is the least time for which the machine runs after the migration, before it is
	// checked. Every writer writes at least one page in each of the two.
	WarmUp, GoOn time.Duration

	// The fields below are for tests.

	// ReportPaused makes the source report the machine's facts each time it pauses
	// the machine, which adds to the downtime.
	ReportPaused bool
	// ConnectTimeout is that of migration.ReceiveConfig.
	ConnectTimeout time.Duration
	// StartTakes delays the start of the machine at the destination.
	StartTakes time.Duration
}

// Event is a line of JSON that a side writes to its standard output.
type Event struct {
	// Event is "listening", "ready", "round", "paused", "arrived", "starting",
	// "running" or "ended".
	Event string `json:"event"`
	// Address is the address on which the destination listens.
	Address string        `json:"address,omitempty"`
	Round   *live.Round   `json:"round,omitempty"`
	Outcome *live.Outcome `json:"outcome,omitempty"`
	// Facts are the machine's facts at the handover, or when the source was paused.
	// Digest is the time that computing them took.
	Facts  *machine.Facts `json:"facts,omitempty"`
	Digest time.Duration  `json:"digest_ns,omitempty"`
	// Runs says whether the machine runs on this side at the end. Began and Counters
	// are the first and last sequence numbers of its writers there.
	Runs     bool     `json:"runs,omitempty"`
	Began    []uint64 `json:"began,omitempty"`
	Counters []uint64 `json:"counters,omitempty"`
	// Faults are the minor page faults of the destination before the handover, and
	// CPU is the processor time it used.
	Faults int64         `json:"faults,omitempty"`
	CPU    time.Duration `json:"cpu_ns,omitempty"`
	// Error is the error of the side or of the migration.
	Error     string `json:"error,omitempty"`
	Undecided bool   `json:"undecided,omitempty"`
}

// eventWriter writes events as lines of JSON.
type eventWriter struct {
	mu  sync.Mutex
	out io.Writer
}

func (w *eventWriter) write(e Event) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err = w.out.Write(append(text, '\n'))
	return err
}

// Source runs a machine, migrates it to the address, and writes events to out. It returns
// the errors of the demo itself. The event "ended" has the result of the migration.
func Source(ctx context.Context, cfg Config, to transport.Address, out io.Writer, log *slog.Logger) error {
	events := eventWriter{out: out}
	method, err := multifd.MethodNamed(cfg.Method)
	if err != nil {
		return err
	}
	m, err := machine.New(cfg.Machine)
	if err != nil {
		return err
	}
	defer m.Close()
	tracked, err := m.DirtyLog()
	if err != nil {
		return err
	}
	if err := m.Start(); err != nil {
		return err
	}
	events.write(Event{Event: "ready"})
	if err := awaitWrites(m, cfg.WarmUp); err != nil {
		return err
	}
	mc := live.Config{
		Wire: migration.Wire{Channels: cfg.Channels, Method: method, LinkTimeout: cfg.LinkTimeout}, Memory: m.Memory(), Dirty: tracked, Machine: "vmferry-demo",
		Pause: func(context.Context) ([]byte, error) {
			m.Pause()
			if cfg.ReportPaused {
				facts := m.Facts()
				events.write(Event{Event: "paused", Facts: &facts})
			}
			return m.Save()
		},
		Resume: m.Start, Throttle: m.Throttle,
		Bandwidth: cfg.Bandwidth, Downtime: cfg.Downtime, StandStill: cfg.StandStill,
		Inquiry: cfg.Inquiry, Logger: log,
		Report: func(r live.Round) { events.write(Event{Event: "round", Round: &r}) },
	}
	if cfg.FollowSpeed {
		rate := cfg.Machine.Rate
		report := mc.Report
		mc.Report = func(r live.Round) {
			rate = nextRate(rate, cfg.Machine.Writers, &r)
			m.SetRate(rate)
			report(r)
		}
		mc.Diverging = live.StopAnyway
	}
	outcome, err := live.Migrate(ctx, func(ctx context.Context) (net.Conn, error) { return to.Dial(ctx, nil) }, mc)
	ended := Event{Event: "ended", Outcome: outcome, Undecided: errors.Is(err, live.ErrUndecided)}
	if err != nil {
		ended.Error = err.Error()
	}
	if err == nil || ended.Undecided {
		// The machine stays paused, in its state at the handover.
		facts := m.Facts()
		ended.Facts = &facts
		return errors.Join(m.Check(), events.write(ended))
	}
	return runAndCheck(&events, m, cfg, ended)
}

// awaitWrites waits for the given time, and until every writer has written a page since
// the machine was started.
func awaitWrites(m *machine.Machine, least time.Duration) error {
	time.Sleep(least)
	before := m.Began()
	for i := range before {
		before[i]--
	}
	return m.AwaitMore(before, writeTimeout)
}

// writeTimeout bounds the wait for writers, which write unless there is a bug.
const writeTimeout = 5 * time.Minute

// nextRate returns the rate of each writer for the next round. It lowers the rate so that
// all writers together dirty at most a quarter of the pages a second that the round sent.
func nextRate(rate, writers int, r *live.Round) int {
	pages := r.Raw + r.Compressed
	if pages == 0 || r.Took <= 0 || writers == 0 {
		return rate
	}
	limit := max(1, int(float64(pages)/r.Took.Seconds()/4/float64(writers)))
	if rate == 0 {
		return limit
	}
	return min(rate, limit)
}

// answerTimeout is how long the destination answers a source that lost its connections.
func answerTimeout(cfg Config) time.Duration { return 2*cfg.LinkTimeout + 2*cfg.Inquiry }

// runAndCheck lets the machine run for cfg.GoOn, pauses it, and checks its memory.
func runAndCheck(events *eventWriter, m *machine.Machine, cfg Config, ended Event) error {
	err := awaitWrites(m, cfg.GoOn)
	m.Pause()
	ended.Runs, ended.Began, ended.Counters = true, m.Began(), m.Counters()
	return errors.Join(err, m.Check(), events.write(ended))
}

// Destination receives the machine, runs it if the migration completes, and writes events
// to out.
func Destination(ctx context.Context, cfg Config, at transport.Address, out io.Writer, log *slog.Logger) error {
	events := eventWriter{out: out}
	method, err := multifd.MethodNamed(cfg.Method)
	if err != nil {
		return err
	}
	ln, err := at.Listen(ctx)
	if err != nil {
		return err
	}
	at.Addr = ln.Addr().String()
	memory := &guestmem.Memory{Options: cfg.Machine.Map}
	defer memory.Close()
	var m *machine.Machine
	rc := live.ReceiveConfig{ReceiveConfig: migration.ReceiveConfig{
		Wire: migration.Wire{Channels: cfg.Channels, Method: method, LinkTimeout: cfg.LinkTimeout}, Sink: memory, Logger: log,
		ConnectTimeout: cfg.ConnectTimeout,
		Commit: func(r *migration.Received) (err error) {
			m, err = loadMachine(&events, cfg, memory, r)
			return err
		}},
		Answer: answerTimeout(cfg),
		Start: func(*migration.Received) error {
			if cfg.StartTakes > 0 {
				events.write(Event{Event: "starting"})
				time.Sleep(cfg.StartTakes)
			}
			if err := m.Start(); err != nil {
				return err
			}
			return events.write(Event{Event: "running"})
		},
	}
	if err := events.write(Event{Event: "listening", Address: at.String()}); err != nil {
		return err
	}
	_, err = live.Receive(ctx, ln, rc)
	if err != nil {
		return events.write(Event{Event: "ended", Error: err.Error()})
	}
	return runAndCheck(&events, m, cfg, Event{Event: "ended"})
}

// loadMachine makes the machine from the memory and the state that arrived, and reports
// its facts.
func loadMachine(events *eventWriter, cfg Config, memory *guestmem.Memory, r *migration.Received) (*machine.Machine, error) {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return nil, err
	}
	began := time.Now()
	state, err := r.OwnerState()
	if err != nil {
		return nil, err
	}
	m, err := machine.NewOn(memory, cfg.Machine)
	if err != nil {
		return nil, err
	}
	if err := m.Load(state); err != nil {
		return nil, err
	}
	facts := m.Facts()
	return m, events.write(Event{
		Event: "arrived", Facts: &facts, Digest: time.Since(began), Faults: usage.Minflt,
		CPU: time.Duration(usage.Utime.Nano() + usage.Stime.Nano()),
	})
}
