package machine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmferry/vmferry/dirty"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
)

// Config describes a machine.
type Config struct {
	// Memory in bytes, a multiple of the page size.
	Memory uint64
	// Writers is how many goroutines write, each to pages of its own.
	Writers int
	// Rate is how many pages each writes a second; 0 is as fast as it can.
	Rate int
	// WorkingSet is the share of memory, 0 to 1, that is written to; 0 is an
	// eighth.
	WorkingSet float64
	// Seed makes the contents.
	Seed uint64
	// Map says how memory is mapped.
	Map guestmem.Options
	// Log is who knows what was written: Marks, or a mode of package dirty;
	// "" is dirty.Auto.
	Log string
}

// Marks is a log that the writers keep themselves.
const Marks = "marks"

// PageSize is the machine's, in bytes.
const PageSize = 4096

// Machine is a machine. It is made paused.
type Machine struct {
	cfg     Config
	mem     *guestmem.Memory
	ram     []byte
	writers []*writer
	marks   *dirty.Marks  // nil if the writers keep no log
	share   atomic.Uint64 // of time that writers lose, in thousandths
	rate    atomic.Int64  // pages a second of each writer, or 0

	mu      sync.Mutex
	cancel  context.CancelFunc // nil while paused
	running sync.WaitGroup
}

// writer writes to pages first up to end.
type writer struct {
	m          *Machine
	id         int
	first, end uint64
	// seq is the number of the last write that was acknowledged, and acked
	// that of each page. They are the ledger.
	seq   uint64
	acked []uint64
	// last is seq, for whoever looks while the writer runs.
	last atomic.Uint64
	// until is the number of the last write that is allowed.
	until atomic.Uint64
	// began is the first number since the machine was started last.
	began uint64
	turns uint64 // of writing, each with a rest of its own
	rng   *rand.Rand
}

func (c *Config) layout() (*guest.Layout, error) {
	return guest.NewLayout(PageSize, []guest.Block{{Name: "ram", Length: c.Memory}})
}

// New makes a machine with its memory filled.
func New(cfg Config) (*Machine, error) {
	l, err := cfg.layout()
	if err != nil {
		return nil, err
	}
	mem, err := guestmem.NewWith(l, cfg.Map)
	if err != nil {
		return nil, err
	}
	m, err := On(mem, cfg)
	if err != nil {
		mem.Close()
		return nil, err
	}
	fill(m.ram, cfg.Seed)
	return m, nil
}

// On makes a machine on memory that a migration filled, or will. Load gives it
// its state.
func On(mem *guestmem.Memory, cfg Config) (*Machine, error) {
	if cfg.WorkingSet == 0 {
		cfg.WorkingSet = 0.125
	}
	pages := cfg.Memory / PageSize
	each := uint64(float64(pages)*cfg.WorkingSet) / uint64(max(cfg.Writers, 1))
	if cfg.Writers > 0 && each == 0 {
		return nil, fmt.Errorf("machine: %d writers have no page each in %d bytes", cfg.Writers, cfg.Memory)
	}
	m := &Machine{cfg: cfg, mem: mem, ram: mem.Bytes(mem.Layout().Blocks[0])}
	m.SetRate(cfg.Rate)
	if cfg.Log == Marks {
		var err error
		if m.marks, err = dirty.NewMarks(mem); err != nil {
			return nil, err
		}
	}
	for i := range cfg.Writers {
		first := uint64(i) * (pages / uint64(cfg.Writers))
		m.writers = append(m.writers, &writer{
			m: m, id: i, first: first, end: first + each, acked: make([]uint64, each),
			rng: rand.New(rand.NewPCG(cfg.Seed, uint64(i))),
		})
	}
	m.AllowAll()
	return m, nil
}

// Memory returns the machine's memory.
func (m *Machine) Memory() *guestmem.Memory { return m.mem }

// DirtyLog returns the log of the machine's memory that its Config asks for.
func (m *Machine) DirtyLog() (guest.DirtyLog, error) {
	if m.marks != nil {
		return m.marks, nil
	}
	return dirty.New(m.mem, dirty.Options{Mode: dirty.Mode(m.cfg.Log)})
}

// Close ends the writers and unmaps the memory.
func (m *Machine) Close() error {
	m.Pause()
	return m.mem.Close()
}

// Start has the writers run.
func (m *Machine) Start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cancel != nil {
		return errors.New("machine: it runs already")
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	for _, w := range m.writers {
		w.began = w.seq + 1
		m.running.Go(func() { w.run(ctx) })
	}
	return nil
}

// Pause returns when no writer writes any more. Each ends its write first.
func (m *Machine) Pause() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cancel != nil {
		m.cancel()
		m.running.Wait()
		m.cancel = nil
	}
}

// Written returns the writers' last numbers, also while they run.
func (m *Machine) Written() []uint64 {
	var n []uint64
	for _, w := range m.writers {
		n = append(n, w.last.Load())
	}
	return n
}

// AwaitMore returns when every writer has written more than it had then, or with
// an error after the time given.
func (m *Machine) AwaitMore(then []uint64, most time.Duration) error {
	for end := time.Now().Add(most); ; time.Sleep(time.Millisecond) {
		idle := 0
		for i, n := range m.Written() {
			if n <= then[i] {
				idle++
			}
		}
		if idle == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("machine: %d of %d writers wrote nothing in %v", idle, len(m.writers), most)
		}
	}
}

// Throttle takes that share of their time from the writers.
func (m *Machine) Throttle(share float64) { m.share.Store(uint64(share * 1000)) }

// SetRate sets how many pages each writer writes a second; 0 is as fast as it can.
func (m *Machine) SetRate(pages int) { m.rate.Store(int64(pages)) }

// Allow has each writer write that many pages from now on, and then wait for the
// next call. So the pages that are dirty do not depend on how long a round takes.
func (m *Machine) Allow(pages int) {
	for _, w := range m.writers {
		w.until.Store(w.last.Load() + uint64(pages))
	}
}

// AllowAll ends what Allow began.
func (m *Machine) AllowAll() {
	for _, w := range m.writers {
		w.until.Store(math.MaxUint64)
	}
}

// AwaitAllowed returns when every writer has written all that Allow allows, or with
// an error after the time given.
func (m *Machine) AwaitAllowed(most time.Duration) error {
	for end := time.Now().Add(most); ; time.Sleep(time.Millisecond) {
		if !slices.ContainsFunc(m.writers, func(w *writer) bool { return w.last.Load() < w.until.Load() }) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("machine: the writers have not written what they may in %v", most)
		}
	}
}

// turn is how long a writer writes before it looks at the clock.
const turn = 2 * time.Millisecond

func (w *writer) run(ctx context.Context) {
	done := ctx.Done()
	rate := w.m.rate.Load()
	for began, wrote := time.Now(), 0; ; {
		if now := w.m.rate.Load(); now != rate {
			began, wrote, rate = time.Now(), 0, now
		}
		w.turns++
		turnEnds := time.Now().Add(turn)
		for n := 0; time.Now().Before(turnEnds) && !ahead(rate, began, wrote) && w.allowed(); n++ {
			select {
			case <-done:
				return
			default:
			}
			w.write()
			wrote++
		}
		rest := time.Duration(0)
		if share := float64(w.m.share.Load()) / 1000; share > 0 {
			rest = time.Duration(float64(turn) * share / (1 - share))
			began = began.Add(rest)
		}
		began = forgive(rate, began, wrote)
		if ahead(rate, began, wrote) || !w.allowed() {
			rest = max(rest, time.Millisecond)
		}
		if rest == 0 {
			continue
		}
		select {
		case <-done:
			return
		case <-time.After(rest):
		}
	}
}

// allowed says whether Allow lets the writer write another page.
func (w *writer) allowed() bool { return w.seq < w.until.Load() }

// ahead says whether a writer wrote all that its rate allows. What it lost while
// it was throttled it does not make up for: see run.
func ahead(rate int64, began time.Time, wrote int) bool {
	return rate > 0 && float64(wrote) >= time.Since(began).Seconds()*float64(rate)
}

// forgive moves the beginning so that a writer that was kept from writing does
// not make up for more than a moment of it.
func forgive(rate int64, began time.Time, wrote int) time.Time {
	if rate <= 0 {
		return began
	}
	const moment = 20 * time.Millisecond
	due := time.Duration(float64(wrote) / float64(rate) * float64(time.Second))
	if behind := time.Since(began) - due; behind > moment {
		return began.Add(behind - moment)
	}
	return began
}

// A page that a writer wrote begins with its mark and the write's number, has
// words made from that number, and ends with it.
const (
	mark      = 0x7665727279000000
	lineWords = 64
)

// write writes a page and then acknowledges it.
func (w *writer) write() {
	at := w.rng.Uint64N(w.end - w.first)
	seq := w.seq + 1
	page := w.m.ram[(w.first+at)*PageSize:][:PageSize]
	le := binary.LittleEndian
	le.PutUint64(page, mark|uint64(w.id))
	le.PutUint64(page[8:], seq)
	for i := range lineWords {
		le.PutUint64(page[16+8*i:], seq*0x9e3779b97f4a7c15+uint64(i))
	}
	le.PutUint64(page[PageSize-8:], seq)
	if w.m.marks != nil {
		w.m.marks.Mark(w.m.mem.Layout().Blocks[0], (w.first+at)*PageSize, PageSize)
	}
	w.acked[at] = seq
	w.seq = seq
	w.last.Store(seq)
}

// check compares a page with what was acknowledged last.
func (w *writer) check(at uint64) error {
	page, want := w.m.ram[(w.first+at)*PageSize:][:PageSize], w.acked[at]
	if want == 0 {
		return nil // what it held at first is in the memory's digest
	}
	le := binary.LittleEndian
	if id, seq, tail := le.Uint64(page), le.Uint64(page[8:]), le.Uint64(page[PageSize-8:]); id != mark|uint64(w.id) || seq != want || tail != want {
		return fmt.Errorf("machine: writer %d, page %d: its last write was number %d; there is %d, which ends with %d (mark %#x)", w.id, w.first+at, want, seq, tail, id)
	}
	for i := range lineWords {
		if got := le.Uint64(page[16+8*i:]); got != want*0x9e3779b97f4a7c15+uint64(i) {
			return fmt.Errorf("machine: writer %d, page %d: word %d of write %d is wrong", w.id, w.first+at, i, want)
		}
	}
	return nil
}
