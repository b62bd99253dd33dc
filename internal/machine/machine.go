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
	// Memory is the size in bytes, a multiple of the page size.
	Memory uint64
	// Writers is the number of goroutines that write, each to pages of its own.
	Writers int
	// Rate is the number of pages that each writer writes a second; 0 means no limit.
	Rate int
	// WorkingSet is the share of memory, 0 to 1, that the writers write to; 0 means
	// an eighth.
	WorkingSet float64
	// Seed determines the contents of the memory.
	Seed uint64
	// Map says how the memory is mapped.
	Map guestmem.Options
	// Log chooses the dirty log: Marks, or a mode of package dirty; "" means
	// dirty.Auto.
	Log string
}

// Marks is a dirty log in which the writers mark the pages that they write.
const Marks = "marks"

// PageSize is the size in bytes of the machine's pages.
const PageSize = 4096

// Machine is a machine. A new machine is paused.
type Machine struct {
	cfg     Config
	mem     *guestmem.Memory
	ram     []byte
	writers []*writer
	marks   *dirty.Marks  // nil if the writers keep no log
	share   atomic.Uint64 // of their time that Throttle takes from the writers, in thousandths
	rate    atomic.Int64  // pages a second of each writer, or 0

	mu      sync.Mutex
	cancel  context.CancelFunc // nil while paused
	running sync.WaitGroup
}

// writer writes to the pages from first to end-1.
type writer struct {
	m          *Machine
	id         int
	first, end uint64
	// seq is the number of the last acknowledged write, and acked has the number of
	// the last acknowledged write to each page. They are the ledger.
	seq   uint64
	acked []uint64
	// last is a copy of seq that other goroutines read while the writer runs.
	last atomic.Uint64
	// until is the number of the last write that is allowed.
	until atomic.Uint64
	// began is the number of the first write since the last start of the machine.
	began uint64
	turns uint64 // number of turns, see run
	rng   *rand.Rand
}

func (c *Config) layout() (*guest.Layout, error) {
	return guest.NewLayout(PageSize, []guest.Block{{Name: "ram", Length: c.Memory}})
}

// New makes a machine and fills its memory.
func New(cfg Config) (*Machine, error) {
	l, err := cfg.layout()
	if err != nil {
		return nil, err
	}
	mem, err := guestmem.NewWith(l, cfg.Map)
	if err != nil {
		return nil, err
	}
	m, err := NewOn(mem, cfg)
	if err != nil {
		mem.Close()
		return nil, err
	}
	fill(m.ram, cfg.Seed)
	return m, nil
}

// NewOn makes a machine on memory that a migration fills. Load restores its state.
func NewOn(mem *guestmem.Memory, cfg Config) (*Machine, error) {
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

// DirtyLog returns the dirty log that Config.Log chooses.
func (m *Machine) DirtyLog() (guest.DirtyLog, error) {
	if m.marks != nil {
		return m.marks, nil
	}
	return dirty.New(m.mem, dirty.Options{Mode: dirty.Mode(m.cfg.Log)})
}

// Close stops the writers and unmaps the memory.
func (m *Machine) Close() error {
	m.Pause()
	return m.mem.Close()
}

// Start starts the writers.
func (m *Machine) Start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cancel != nil {
		return errors.New("machine: already running")
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	for _, w := range m.writers {
		w.began = w.seq + 1
		m.running.Go(func() { w.run(ctx) })
	}
	return nil
}

// Pause stops the writers after their current write.
func (m *Machine) Pause() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cancel != nil {
		m.cancel()
		m.running.Wait()
		m.cancel = nil
	}
}

// Written returns the number of the last write of each writer. The machine may run.
func (m *Machine) Written() []uint64 {
	return m.ofEachWriter(func(w *writer) uint64 { return w.last.Load() })
}

func (m *Machine) ofEachWriter(number func(*writer) uint64) []uint64 {
	var n []uint64
	for _, w := range m.writers {
		n = append(n, number(w))
	}
	return n
}

// AwaitMore waits until the last write of every writer has a higher number than in then.
// It fails after the time most.
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

// Throttle makes the writers sleep for the given share of the time, 0 to 1.
func (m *Machine) Throttle(share float64) { m.share.Store(uint64(share * 1000)) }

// SetRate sets the number of pages that each writer writes a second; 0 means no limit.
func (m *Machine) SetRate(pages int) { m.rate.Store(int64(pages)) }

// Allow lets each writer write the given number of pages and then wait for the next call.
// So the number of dirty pages does not depend on the duration of a round.
func (m *Machine) Allow(pages int) {
	for _, w := range m.writers {
		w.until.Store(w.last.Load() + uint64(pages))
	}
}

// AllowAll removes the limit that Allow set.
func (m *Machine) AllowAll() {
	for _, w := range m.writers {
		w.until.Store(math.MaxUint64)
	}
}

// AwaitAllowed waits until every writer has written all pages that Allow allows. It fails
// after the time most.
func (m *Machine) AwaitAllowed(most time.Duration) error {
	for end := time.Now().Add(most); ; time.Sleep(time.Millisecond) {
		if !slices.ContainsFunc(m.writers, func(w *writer) bool { return w.last.Load() < w.until.Load() }) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("machine: the writers did not write their allowed pages in %v", most)
		}
	}
}

// turn is how long a writer writes before it rests.
const turn = 2 * time.Millisecond

// run writes in turns until ctx ends. Between two turns the writer rests as long as
// Throttle, SetRate and Allow demand.
func (w *writer) run(ctx context.Context) {
	done := ctx.Done()
	rate := w.m.rate.Load()
	for began, wrote := time.Now(), 0; ; {
		if now := w.m.rate.Load(); now != rate {
			began, wrote, rate = time.Now(), 0, now
		}
		w.turns++
		turnEnds := time.Now().Add(turn)
		for n := 0; time.Now().Before(turnEnds) && !rateReached(rate, began, wrote) && w.allowed(); n++ {
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
		began = limitCatchUp(rate, began, wrote)
		if rateReached(rate, began, wrote) || !w.allowed() {
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

// allowed reports whether Allow lets the writer write another page.
func (w *writer) allowed() bool { return w.seq < w.until.Load() }

// rateReached reports whether a writer has written all that its rate allows since began.
// run moves began forward by the rests of Throttle, so the writer does not catch up on
// them.
func rateReached(rate int64, began time.Time, wrote int) bool {
	return rate > 0 && float64(wrote) >= time.Since(began).Seconds()*float64(rate)
}

// limitCatchUp moves began forward so that a delayed writer catches up on at most a moment
// of the delay.
func limitCatchUp(rate int64, began time.Time, wrote int) time.Time {
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

// A written page begins with the mark of its writer and the number of the write. Words that
// follow from that number come next. The page ends with the number.
const (
	pageMark  = 0x7665727279000000
	lineWords = 64
)

// write writes a page and then acknowledges it.
func (w *writer) write() {
	at := w.rng.Uint64N(w.end - w.first)
	seq := w.seq + 1
	page := w.m.ram[(w.first+at)*PageSize:][:PageSize]
	le := binary.LittleEndian
	le.PutUint64(page, pageMark|uint64(w.id))
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

// check compares a page with its last acknowledged write.
func (w *writer) check(at uint64) error {
	page, want := w.m.ram[(w.first+at)*PageSize:][:PageSize], w.acked[at]
	if want == 0 {
		return nil // not written yet; the digest of the memory covers its first content
	}
	le := binary.LittleEndian
	if id, seq, tail := le.Uint64(page), le.Uint64(page[8:]), le.Uint64(page[PageSize-8:]); id != pageMark|uint64(w.id) || seq != want || tail != want {
		return fmt.Errorf("machine: writer %d, page %d: the last write was number %d, the page begins with %d and ends with %d (mark %#x)", w.id, w.first+at, want, seq, tail, id)
	}
	for i := range lineWords {
		if got := le.Uint64(page[16+8*i:]); got != want*0x9e3779b97f4a7c15+uint64(i) {
			return fmt.Errorf("machine: writer %d, page %d: word %d of write %d is wrong", w.id, w.first+at, i, want)
		}
	}
	return nil
}
