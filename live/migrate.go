package live

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// Config configures Migrate. Memory, Dirty, Pause and Resume are required. Migrate
// calls the functions one at a time, from the goroutine of its caller.
type Config struct {
	migration.Wire
	// Memory is the memory to move. Its owner may write to it until Pause returns.
	Memory *guestmem.Memory
	// Dirty logs the owner's writes. Migrate starts and stops it.
	Dirty guest.DirtyLog
	// Pause stops all writes to the memory and returns the owner's state, which is
	// everything that the destination needs besides memory. If it fails, the
	// machine must continue as before. If it succeeds, the machine stays paused
	// until Resume is called, if ever.
	Pause func(ctx context.Context) (state []byte, err error)
	// Resume lets the machine, which stays at the source, continue after Pause.
	Resume func() error
	// Throttle, if not nil, slows the writers of a machine that is dirtied faster
	// than it can be sent. share is the share of time that the writers must sleep,
	// 0 (not throttled) to 0.95.
	Throttle func(share float64)

	// Machine is the machine type in the stream; "" is "vmferry".
	Machine string
	// UUID is the machine's UUID; if zero, Migrate chooses a random one.
	UUID [16]byte

	// Bandwidth limits the bytes per second, also while the machine is paused; 0 is
	// no limit.
	Bandwidth uint64
	// Downtime is the longest expected downtime with which Migrate pauses the
	// machine; 0 is 300 ms.
	Downtime time.Duration
	// MaxRounds is the number of rounds after which the machine counts as
	// diverging, 1 to 500; 0 is 30.
	MaxRounds int
	// Diverging selects what happens to a diverging machine.
	Diverging Diverging
	// Stay resumes the machine at the source when the destination has everything,
	// for a destination that stores it.
	Stay bool

	// ConnectTimeout is migration.SendConfig.ConnectTimeout.
	ConnectTimeout time.Duration
	// StandStill is how long the paused machine waits for the destination to be
	// prepared, before it is resumed at the source; 0 is 10 s plus three times the
	// expected downtime.
	StandStill time.Duration
	// Inquiry is how long Migrate inquires at a destination whose connections it
	// lost during the handover; 0 is 2 minutes.
	Inquiry time.Duration
	// ProvesDeath reports whether a dialing error of an inquiry proves that the
	// destination is dead, so that the machine may be resumed at the source. Nil is
	// transport.NoListener, which is no proof with a proxy in between.
	ProvesDeath func(error) bool

	// Report, if not nil, is called after every round.
	Report func(Round)
	// Logger, if not nil, receives warnings.
	Logger *slog.Logger
}

// Diverging selects what happens to a machine that is dirtied faster than it can be
// sent, even with the strongest throttling.
type Diverging uint8

const (
	// GiveUp fails the migration; the machine continues at the source. It is the
	// default.
	GiveUp Diverging = iota
	// StopAnyway pauses the machine for as long as the rest takes.
	StopAnyway
)

// ErrDiverging is wrapped when the machine is dirtied faster than it can be sent. The
// machine continues at the source.
var ErrDiverging = errors.New("live: the machine is dirtied faster than it can be sent")

// ErrNotResumed is wrapped when Resume failed. The machine is paused at the source.
var ErrNotResumed = errors.New("live: cannot resume the machine")

const (
	defaultDowntime  = 300 * time.Millisecond
	defaultMaxRounds = 30
	defaultMaxPause  = 10 * time.Second
	// maxMaxRounds keeps the PINGs below the commands that a destination keeps.
	maxMaxRounds = 500
)

func (c *Config) check() error {
	switch {
	case c.Memory == nil || c.Memory.Layout() == nil:
		return errors.New("migrating: no memory")
	case c.Dirty == nil || c.Pause == nil || c.Resume == nil:
		return errors.New("migrating: Dirty, Pause and Resume have to be set")
	case c.MaxRounds < 0 || c.MaxRounds > maxMaxRounds:
		return fmt.Errorf("migrating: %d rounds (want 1 to %d, or 0 for %d)", c.MaxRounds, maxMaxRounds, defaultMaxRounds)
	case c.Diverging > StopAnyway:
		return fmt.Errorf("migrating: unknown Diverging %d", c.Diverging)
	}
	return nil
}

// withDefaults returns c with defaults in place of zero values.
func (c Config) withDefaults() Config {
	if c.Machine == "" {
		c.Machine = "vmferry"
	}
	if c.UUID == ([16]byte{}) {
		rand.Read(c.UUID[:])
	}
	if c.Downtime <= 0 {
		c.Downtime = defaultDowntime
	}
	if c.MaxRounds == 0 {
		c.MaxRounds = defaultMaxRounds
	}
	if c.Inquiry <= 0 {
		c.Inquiry = defaultInquiry
	}
	if c.ProvesDeath == nil {
		c.ProvesDeath = transport.NoListener
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Migrate moves a running machine to a destination (Receive). It sends all memory, then
// rounds of the pages dirtied meanwhile, until the rest can be sent within Downtime. It
// then pauses the machine and sends the rest and the owner's state.
//
// After a nil error the machine runs at the destination, and stays paused at the
// source; with Stay it runs at the source, and the destination has a copy. After an
// error that wraps ErrUndecided it is paused at the source, and may run at the
// destination. After an error that wraps ErrNotResumed it is paused at the source.
// After any other error it runs at the source as before: for example if ctx ends, the
// link breaks, or the destination dies or reports a failure. Once Migrate has sent
// HandoverRun, the end of ctx has no effect.
//
// The Outcome is not nil, even with an error.
func Migrate(ctx context.Context, dial transport.Dialer, cfg Config) (*Outcome, error) {
	if err := cfg.check(); err != nil {
		return new(Outcome), err
	}
	m := &migrator{cfg: cfg.withDefaults(), dial: dial, began: time.Now()}
	err := m.run(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w (%w)", cause, err)
	}
	m.out.Total = time.Since(m.began) - m.out.StopLog
	return &m.out, err
}

// migrator is one outbound live migration.
type migrator struct {
	cfg   Config
	dial  transport.Dialer
	began time.Time
	out   Outcome
	send  *migration.Sender
	head  []byte
	rtt   time.Duration

	dirty, next guest.Bitmap
	forecast    forecast
	throttle    float64
	extraRounds int   // rounds after the rest fits into Downtime
	last        Round // the round while the machine is paused
}

func (m *migrator) run(ctx context.Context) (err error) {
	if err := m.connect(ctx); err != nil {
		return err
	}
	defer m.send.Close()
	l := m.cfg.Memory.Layout()
	m.dirty, m.next = guest.NewBitmap(l), guest.NewBitmap(l)
	if err := m.cfg.Dirty.Start(); err != nil {
		return fmt.Errorf("starting the dirty log: %w", err)
	}
	defer m.stopLog()
	defer func() {
		if m.throttle > 0 && (err != nil || m.cfg.Stay) {
			m.cfg.Throttle(0)
		}
	}()
	if err := m.precopy(ctx); err != nil {
		return err
	}
	return m.switchOver(ctx)
}

// stopLog stops the dirty log. By then the machine runs at one side.
func (m *migrator) stopLog() {
	began := time.Now()
	if err := m.cfg.Dirty.Stop(); err != nil {
		m.cfg.Logger.Warn("stopping the dirty log failed", "error", err)
	}
	m.out.StopLog = time.Since(began)
}

// connect makes the connections and measures the round-trip time.
func (m *migrator) connect(ctx context.Context) (err error) {
	cfg, l := &m.cfg, m.cfg.Memory.Layout()
	config := vmstate.Configuration{
		Machine: cfg.Machine, PageBits: uint32(bits.TrailingZeros(uint(l.PageSize))), UUID: cfg.UUID, HasUUID: true,
	}
	m.head = config.Head()
	code := uint32(vmstate.HandoverRequest)
	if cfg.Stay {
		code = vmstate.HandoverStay
	}
	m.send, err = migration.Connect(ctx, m.dial, migration.SendConfig{
		Wire: cfg.Wire, Head: m.head, Layout: l, UUID: cfg.UUID, Zero: migration.ZeroInPackets, ReturnPath: true, Pings: []uint32{code},
		Bandwidth: cfg.Bandwidth, ConnectTimeout: cfg.ConnectTimeout,
	})
	if err != nil {
		return err
	}
	// The first reply is late, because the destination first maps its memory.
	m.rtt = time.Hour
	for range 3 {
		if err := m.ping(ctx); err != nil {
			m.send.Close()
			return err
		}
	}
	return nil
}

// ping waits until the destination has processed everything. The shortest wait is the
// round-trip time.
func (m *migrator) ping(ctx context.Context) error {
	took, err := m.send.Ping(ctx)
	m.rtt = min(m.rtt, took)
	return err
}

// precopy sends rounds until the rest fits into the downtime.
func (m *migrator) precopy(ctx context.Context) error {
	source, err := m.firstSource()
	if err != nil {
		return err
	}
	for detector := new(divergenceDetector); ; {
		round, err := m.round(ctx, source)
		if err != nil {
			return err
		}
		enough, done := round.ExpectedDowntime <= m.cfg.Downtime, false
		var giveUp error
		switch {
		case !enough:
			done, giveUp = m.handleDivergence(detector, round)
		case m.wantsExtraRound(round):
			enough = false
		}
		round.Throttle = m.throttle
		m.report(round)
		if enough || done || giveUp != nil {
			return giveUp
		}
		m.dirty, m.next = m.next, m.dirty
		m.next.Clear()
		if source, err = m.cfg.Memory.Dirty(m.dirty); err != nil {
			return err
		}
	}
}

// firstSource returns the first round's source: all memory, with absent pages as zero.
func (m *migrator) firstSource() (guest.Source, error) {
	log, ok := m.cfg.Dirty.(guest.AbsentLog)
	if !ok {
		return m.cfg.Memory.All(), nil
	}
	absent := guest.NewBitmap(m.cfg.Memory.Layout())
	if err := log.Absent(absent); err != nil {
		return nil, err
	}
	return m.cfg.Memory.AllBut(absent)
}

// round sends a round, waits until the destination has processed it, and collects the
// pages dirtied meanwhile in m.next.
func (m *migrator) round(ctx context.Context, source guest.Source) (Round, error) {
	meter := startMeter(m.send)
	if err := m.send.Round(ctx, source); err != nil {
		return Round{}, err
	}
	// Wait for the PONG: otherwise the measurement would include filling the
	// buffers on the way, and those buffers would delay the last round.
	if err := m.ping(ctx); err != nil {
		return Round{}, err
	}
	scan := time.Now()
	if err := m.cfg.Dirty.Collect(m.next); err != nil {
		return Round{}, fmt.Errorf("collecting dirty pages: %w", err)
	}
	scanned := time.Since(scan)
	r := meter.read(len(m.out.Rounds) + 1)
	r.Scan = scanned
	r.Took -= r.Scan
	r.Remaining = m.next.Count()
	r.DirtyRate = perSecond(r.Remaining*uint64(m.cfg.Memory.Layout().PageSize), r.Took+r.Scan)
	m.forecast.learn(&r, m.rtt)
	r.ExpectedDowntime = m.forecast.downtime(r.Remaining, r.Scan, m.rtt)
	return r, nil
}

// maxExtraRounds bounds the rounds after the rest fits into Downtime. Each takes no
// longer than the expected downtime.
const maxExtraRounds = 3

// wantsExtraRound reports whether one more round is expected to halve the remaining
// pages, and counts it.
func (m *migrator) wantsExtraRound(r Round) bool {
	if m.extraRounds == maxExtraRounds || r.Number >= m.cfg.MaxRounds || r.Remaining < minMeasuredPages {
		return false
	}
	sending := m.forecast.sending(r.Remaining) + m.rtt
	expected := r.DirtyRate * sending.Seconds() / float64(m.cfg.Memory.Layout().PageSize)
	if expected > float64(r.Remaining)/2 {
		return false
	}
	m.extraRounds++
	return true
}

// handleDivergence handles a round after which too many pages remain: it continues,
// throttles, returns done to pause the machine anyway, or returns an error to give up.
func (m *migrator) handleDivergence(detector *divergenceDetector, r Round) (done bool, giveUp error) {
	over := r.Number >= m.cfg.MaxRounds
	if !detector.observe(r.Remaining) && !over {
		return false, nil
	}
	if !over && m.cfg.Throttle != nil && m.throttle < maxThrottle {
		m.throttle = nextThrottle(m.throttle)
		m.cfg.Throttle(m.throttle)
		detector.reset()
		return false, nil
	}
	if !over && !detector.exceeded() {
		return false, nil
	}
	if m.cfg.Diverging == StopAnyway {
		return true, nil
	}
	return false, fmt.Errorf("%w: %d pages remain after round %d, with an expected downtime of %v, of which the handover takes %v; the limit is %v (raise Downtime, set Throttle, or set Diverging to StopAnyway)",
		ErrDiverging, r.Remaining, r.Number, r.ExpectedDowntime.Round(100*time.Microsecond), (r.Scan + 2*m.rtt).Round(100*time.Microsecond), m.cfg.Downtime)
}

func (m *migrator) report(r Round) {
	m.out.Rounds = append(m.out.Rounds, r)
	m.out.add(r)
	if m.cfg.Report != nil {
		m.cfg.Report(r)
	}
}
