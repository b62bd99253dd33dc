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

// Config says what Migrate sends, and how its owner takes part.
type Config struct {
	migration.Wire
	// Memory is what goes. Its owner keeps writing to it until Pause.
	Memory *guestmem.Memory
	// Dirty knows what the owner writes. Migrate starts and stops it.
	Dirty guest.DirtyLog
	// Pause stops all writing to the memory and returns the owner's state,
	// which is all that the destination needs besides memory. When it fails,
	// the machine has to be as it was. After that it stands still until
	// Resume, or for good.
	Pause func(ctx context.Context) (state []byte, err error)
	// Resume lets writing go on after Pause: the machine stays here.
	Resume func() error
	// Throttle, if not nil, slows the writers of a machine that is dirtied
	// faster than it can be sent: they are to lose that share of their time, 0
	// (none, again) to 0.99.
	Throttle func(share float64)

	// Machine names the kind of machine, for whoever looks at the stream; ""
	// is "vmferry". UUID is the machine's; one is made up if it is zero.
	Machine string
	UUID    [16]byte

	// Bandwidth bounds the bytes a second, also while the machine stands
	// still; 0 is no bound.
	Bandwidth uint64
	// Downtime is how long the machine may stand still, as far as that can be
	// foreseen; 0 is 300 ms.
	Downtime time.Duration
	// MaxRounds is after how many the machine counts as one that does not
	// converge; 0 is 30.
	MaxRounds int
	// Diverging says what then happens.
	Diverging Diverging
	// Stay has the machine run on here when the destination has everything:
	// for a destination that stores it.
	Stay bool

	// ConnectTimeout is that of migration.SendConfig.
	ConnectTimeout time.Duration
	// StandStill is how long the machine waits for a destination that is slow
	// while it stands still, before it goes on here; 0 is 10 s and three times
	// what was foreseen.
	StandStill time.Duration
	// Inquiry is how long Migrate goes on asking a destination that it lost in
	// the moment of the handover; 0 is two minutes.
	Inquiry time.Duration
	// ProvesDeath says whether the error of such a connection proves that the
	// destination is dead, so that the machine may go on here. Nil takes a
	// refused connection for proof, which behind a proxy it is not.
	ProvesDeath func(error) bool

	// Report, if not nil, is called after every round.
	Report func(Round)
	// Logger, if not nil, gets what is odd but no error.
	Logger *slog.Logger
}

// Diverging is what happens to a machine that is dirtied faster than it can be
// sent, throttled as far as that goes.
type Diverging uint8

const (
	// GiveUp has it run on here. It is the default.
	GiveUp Diverging = iota
	// StopAnyway has it stand still for as long as it takes.
	StopAnyway
)

// ErrDiverging is wrapped when the machine is dirtied faster than it can be
// sent. It runs on at the source.
var ErrDiverging = errors.New("the machine is dirtied faster than it can be sent")

// ErrNotResumed is wrapped when Resume failed: the machine stands still at the
// source.
var ErrNotResumed = errors.New("the machine could not be resumed")

const (
	defaultDowntime  = 300 * time.Millisecond
	defaultMaxRounds = 30
	defaultMaxPause  = 10 * time.Second
	// maxMaxRounds is bounded by the commands that a destination remembers.
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

// withDefaults fills in what is not set.
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

// Migrate moves a machine that runs to a destination (Receive with Start). It
// sends all memory, then what was dirtied meanwhile, again and again, until the
// rest fits into Downtime; then it pauses the machine and sends the rest and its
// state.
//
// With a nil error the machine runs at the destination, and stands still here
// for good. (Under Stay it runs here, and the destination has it.) With an error
// that wraps ErrUndecided it stands still here, and may run there. With any
// other error it runs here, as if nothing had been: when ctx ends, the link
// breaks, or the destination dies or refuses. Once the destination was told to
// run, the end of ctx is no longer obeyed.
//
// The outcome is not nil even with an error.
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

// migrator is a migration on its way out.
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
	extraRounds int   // rounds after the rest was little enough
	last        Round // the one while the machine stands still
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

// stopLog ends the dirty log, when the machine runs where it is to run.
func (m *migrator) stopLog() {
	began := time.Now()
	if err := m.cfg.Dirty.Stop(); err != nil {
		m.cfg.Logger.Warn("stopping the dirty log", "error", err)
	}
	m.out.StopLog = time.Since(began)
}

// connect makes the connections and measures the way there and back.
func (m *migrator) connect(ctx context.Context) (err error) {
	cfg, l := &m.cfg, m.cfg.Memory.Layout()
	config := vmstate.Configuration{
		Machine: cfg.Machine, PageBits: uint32(bits.TrailingZeros(uint(l.PageSize))), UUID: cfg.UUID, HasUUID: true,
	}
	m.head = config.Head()
	word := uint32(vmstate.HandoverRequest)
	if cfg.Stay {
		word = vmstate.HandoverStay
	}
	m.send, err = migration.Connect(ctx, m.dial, migration.SendConfig{
		Wire: cfg.Wire, Head: m.head, Layout: l, UUID: cfg.UUID, Zero: migration.ZeroInPackets, ReturnPath: true, Pings: []uint32{word},
		Bandwidth: cfg.Bandwidth, ConnectTimeout: cfg.ConnectTimeout,
	})
	if err != nil {
		return err
	}
	// The first answer comes late: the destination sets its memory up.
	m.rtt = time.Hour
	for range 3 {
		if err := m.ping(ctx); err != nil {
			m.send.Close()
			return err
		}
	}
	return nil
}

// ping waits until all that was sent is in place. The shortest wait is the way
// there and back.
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
	for watch := new(divergenceDetector); ; {
		round, err := m.round(ctx, source)
		if err != nil {
			return err
		}
		enough, done := round.ExpectedDowntime <= m.cfg.Downtime, false
		var give error
		switch {
		case !enough:
			done, give = m.handleDivergence(watch, round)
		case m.wantsExtraRound(round):
			enough = false
		}
		round.Throttle = m.throttle
		m.report(round)
		if enough || done || give != nil {
			return give
		}
		m.dirty, m.next = m.next, m.dirty
		m.next.Clear()
		if source, err = m.cfg.Memory.Dirty(m.dirty); err != nil {
			return err
		}
	}
}

// firstSource is the first round's source.
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

// round sends a round, waits until it is in place, and looks at what was
// dirtied meanwhile: m.next.
func (m *migrator) round(ctx context.Context, source guest.Source) (Round, error) {
	meter := startMeter(m.send)
	if err := m.send.Round(ctx, source); err != nil {
		return Round{}, err
	}
	// What is written is not yet there: without the answer the buffers on the
	// way would count as the link's speed, and be in the way of the rest.
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

// maxExtraRounds is how many rounds are made at most after the rest fits into the
// downtime. Each takes no longer than the machine was to stand still.
const maxExtraRounds = 3

// wantsExtraRound says that one more round is worth its while: it promises to leave less
// than half of what there is to send.
func (m *migrator) wantsExtraRound(r Round) bool {
	if m.extraRounds == maxExtraRounds || r.Number >= m.cfg.MaxRounds || r.Remaining < minMeasuredPages {
		return false
	}
	sending := m.forecast.sending(r.Remaining) + m.rtt
	soon := r.DirtyRate * sending.Seconds() / float64(m.cfg.Memory.Layout().PageSize)
	if soon > float64(r.Remaining)/2 {
		return false
	}
	m.extraRounds++
	return true
}

// handleDivergence decides what to do about a round that left too much: nothing yet, to
// throttle, to stop anyway (done), or to give up.
func (m *migrator) handleDivergence(watch *divergenceDetector, r Round) (done bool, give error) {
	over := r.Number >= m.cfg.MaxRounds
	if !watch.observe(r.Remaining) && !over {
		return false, nil
	}
	if !over && m.cfg.Throttle != nil && m.throttle < maxThrottle {
		m.throttle = nextThrottle(m.throttle)
		m.cfg.Throttle(m.throttle)
		watch.reset()
		return false, nil
	}
	if !over && !watch.exceeded() {
		return false, nil
	}
	if m.cfg.Diverging == StopAnyway {
		return true, nil
	}
	return false, fmt.Errorf("%w: %d pages were left after round %d, which would mean %v of downtime, %v of it for the handover itself; %v is allowed (allow more, throttle, or stop anyway)",
		ErrDiverging, r.Remaining, r.Number, r.ExpectedDowntime.Round(100*time.Microsecond), (r.Scan + 2*m.rtt).Round(100*time.Microsecond), m.cfg.Downtime)
}

func (m *migrator) report(r Round) {
	m.out.Rounds = append(m.out.Rounds, r)
	m.out.add(r)
	if m.cfg.Report != nil {
		m.cfg.Report(r)
	}
}
