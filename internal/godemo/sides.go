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

// Config is what both sides have to agree on.
type Config struct {
	Machine  machine.Config
	Channels int
	Method   string
	// Bandwidth in bytes a second; 0 is no bound. Downtime, LinkTimeout and
	// Inquiry are those of live.Config.
	Bandwidth   uint64
	Downtime    time.Duration
	LinkTimeout time.Duration
	Inquiry     time.Duration
	// StandStill is that of live.Config. The destination digests all
	// memory meanwhile.
	StandStill time.Duration
	// FollowSpeed has the writers write no faster than a fraction of what rounds
	// turn out to send: the machine moves however slow the processor is, and
	// stands still for longer than Downtime if nothing else helps.
	FollowSpeed bool
	// WarmUp is how long the source writes at least before it begins to migrate,
	// and GoOn how long at least the side that runs at the end goes on before it
	// is checked. In both every writer writes something.
	WarmUp, GoOn time.Duration

	// The rest is for tests, and off by default. TellPaused has the source
	// print its facts each time it was paused, which adds to the downtime.
	TellPaused bool
	// ConnectTimeout is that of migration.ReceiveConfig.
	ConnectTimeout time.Duration
	// StartTakes is how long the destination takes to start the machine.
	StartTakes time.Duration
}

// Event is a line of JSON that a side prints.
type Event struct {
	// Event is "listening", "ready", "round", "paused", "arrived", "starting",
	// "running" or "ended".
	Event string `json:"event"`
	// Address is where the destination listens.
	Address string        `json:"address,omitempty"`
	Round   *live.Round   `json:"round,omitempty"`
	Outcome *live.Outcome `json:"outcome,omitempty"`
	// Facts are those at the switch, or when the source was paused; Digest is
	// how long they took to gather.
	Facts  *machine.Facts `json:"facts,omitempty"`
	Digest time.Duration  `json:"digest_ns,omitempty"`
	// Runs says whether this side runs at the end; Began and Counters are its
	// writers' first and last numbers.
	Runs     bool     `json:"runs,omitempty"`
	Began    []uint64 `json:"began,omitempty"`
	Counters []uint64 `json:"counters,omitempty"`
	// Faults are the destination's minor page faults up to the switch, and CPU
	// its time.
	Faults int64         `json:"faults,omitempty"`
	CPU    time.Duration `json:"cpu_ns,omitempty"`
	// Error is why it failed, or why the migration did.
	Error     string `json:"error,omitempty"`
	Undecided bool   `json:"undecided,omitempty"`
}

// teller prints events.
type teller struct {
	mu  sync.Mutex
	out io.Writer
}

func (t *teller) say(e Event) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, err = t.out.Write(append(text, '\n'))
	return err
}

// Source runs a machine and moves it to the address. It prints events to out;
// its error is one of the demo's own. How the migration went is in the event
// "ended".
func Source(ctx context.Context, cfg Config, to transport.Address, out io.Writer, log *slog.Logger) error {
	say := teller{out: out}
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
	say.say(Event{Event: "ready"})
	if err := writeFor(m, cfg.WarmUp); err != nil {
		return err
	}
	mc := live.Config{
		Wire: migration.Wire{Channels: cfg.Channels, Method: method, LinkTimeout: cfg.LinkTimeout}, Memory: m.Memory(), Dirty: tracked, Machine: "vmferry-demo",
		Pause: func(context.Context) ([]byte, error) {
			m.Pause()
			if cfg.TellPaused {
				facts := m.Facts()
				say.say(Event{Event: "paused", Facts: &facts})
			}
			return m.Save()
		},
		Resume: m.Start, Throttle: m.Throttle,
		Bandwidth: cfg.Bandwidth, Downtime: cfg.Downtime, StandStill: cfg.StandStill,
		Inquiry: cfg.Inquiry, Logger: log,
		Report: func(r live.Round) { say.say(Event{Event: "round", Round: &r}) },
	}
	if cfg.FollowSpeed {
		rate := cfg.Machine.Rate
		report := mc.Report
		mc.Report = func(r live.Round) {
			rate = slower(rate, cfg.Machine.Writers, &r)
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
		// It stands still, as it was at the switch.
		facts := m.Facts()
		ended.Facts = &facts
		return errors.Join(m.Check(), say.say(ended))
	}
	return goOn(&say, m, cfg, ended)
}

// writeFor lets the machine write for that long, and until every writer has written.
func writeFor(m *machine.Machine, least time.Duration) error {
	time.Sleep(least)
	before := m.Began()
	for i := range before {
		before[i]--
	}
	return m.AwaitMore(before, awaitWrites)
}

// awaitWrites bounds the wait for writers that only a fault can stop.
const awaitWrites = 5 * time.Minute

// slower returns the rate of each writer for the next round: that of before, or less
// where all writers together would dirty more than a quarter of what the round sent
// in its time.
func slower(rate, writers int, r *live.Round) int {
	pages := r.Raw + r.Compressed
	if pages == 0 || r.Took <= 0 || writers == 0 {
		return rate
	}
	follows := max(1, int(float64(pages)/r.Took.Seconds()/4/float64(writers)))
	if rate == 0 {
		return follows
	}
	return min(rate, follows)
}

// answer is how long the destination answers a source that lost it.
func answer(cfg Config) time.Duration { return 2*cfg.LinkTimeout + 2*cfg.Inquiry }

// goOn lets the side that runs go on, stops it, and checks it.
func goOn(say *teller, m *machine.Machine, cfg Config, ended Event) error {
	err := writeFor(m, cfg.GoOn)
	m.Pause()
	ended.Runs, ended.Began, ended.Counters = true, m.Began(), m.Counters()
	return errors.Join(err, m.Check(), say.say(ended))
}

// Destination takes the machine, and runs it if it is to. It prints events to
// out.
func Destination(ctx context.Context, cfg Config, at transport.Address, out io.Writer, log *slog.Logger) error {
	say := teller{out: out}
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
			m, err = arrive(&say, cfg, memory, r)
			return err
		}},
		Answer: answer(cfg),
		Start: func(*migration.Received) error {
			if cfg.StartTakes > 0 {
				say.say(Event{Event: "starting"})
				time.Sleep(cfg.StartTakes)
			}
			if err := m.Start(); err != nil {
				return err
			}
			return say.say(Event{Event: "running"})
		},
	}
	if err := say.say(Event{Event: "listening", Address: at.String()}); err != nil {
		return err
	}
	_, err = live.Receive(ctx, ln, rc)
	if err != nil {
		return say.say(Event{Event: "ended", Error: err.Error()})
	}
	return goOn(&say, m, cfg, Event{Event: "ended"})
}

// arrive makes the machine of what came, and tells what that is.
func arrive(say *teller, cfg Config, memory *guestmem.Memory, r *migration.Received) (*machine.Machine, error) {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return nil, err
	}
	began := time.Now()
	state, err := r.OwnerState()
	if err != nil {
		return nil, err
	}
	m, err := machine.On(memory, cfg.Machine)
	if err != nil {
		return nil, err
	}
	if err := m.Load(state); err != nil {
		return nil, err
	}
	facts := m.Facts()
	return m, say.say(Event{
		Event: "arrived", Facts: &facts, Digest: time.Since(began), Faults: usage.Minflt,
		CPU: time.Duration(usage.Utime.Nano() + usage.Stime.Nano()),
	})
}
