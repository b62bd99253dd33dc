//go:build netns

package godemo

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/internal/machine"
)

const (
	trialsOfAKind = 50
	// lanes is how many trials run at a time, each over a wire of its own: they
	// mostly wait.
	lanes = 4
	// hung is how long a trial may take at most, when a test has no better
	// bound.
	hung = 5 * time.Minute
	// endSlack is for processes that wait for a processor, the rest of a
	// migration that nothing disturbs, and the demo's digests. It is less than
	// the defaults of what a trial bounds by seconds.
	endSlack = time.Minute
)

// trial is a migration during which something breaks, at a moment that its seed
// chooses.
type trial struct {
	parts
	seed uint64
	rng  *rand.Rand
	cfg  Config
	// The hit comes that long after the first event of that name, "last round"
	// being one.
	after string
	wait  time.Duration
	hit   func()

	mu    sync.Mutex
	seen  map[string]bool
	began time.Time
	log   []string
	timer *time.Timer
	phase string // when it hit
	hitAt time.Time
	took  map[string]time.Duration // from the hit to a side's end
	over  bool                     // too late for a hit
}

// The phases in which a hit can come.
const (
	inFirstRound = "before the first round had ended"
	inRounds     = "in later rounds"
	inStandstill = "while the machine stood still"
	inHandedOver = "when the destination ran"
	inNoPhase    = "after everything"
)

// outcomes counts how trials ended.
type outcomes struct {
	mu     sync.Mutex
	counts map[string]int
}

func (o *outcomes) add(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.counts[what]++
}

// of adds up those that contain the text.
func (o *outcomes) of(text string) (n int) {
	for what, count := range o.counts {
		if strings.Contains(what, text) {
			n += count
		}
	}
	return n
}

// runTrials runs trials of a kind. It returns how they ended, or nil if they are
// not all that the test is about. VMFERRY_SEED=n runs one alone, VMFERRY_RUNS=n
// that many.
func runTrials(t *testing.T, one func(x *trial) (outcome string, problems []string)) *outcomes {
	t.Helper()
	first, count := uint64(1), uint64(trialsOfAKind)
	alone := number(t, "VMFERRY_SEED", &first)
	if alone {
		count = 1
	}
	number(t, "VMFERRY_RUNS", &count)
	free := make(chan *wire, lanes)
	for range min(lanes, count) {
		free <- newWire(t)
	}
	o := &outcomes{counts: make(map[string]int)}
	var group errgroup.Group
	group.SetLimit(lanes)
	for seed := first; seed < first+count; seed++ {
		group.Go(func() error {
			w := <-free
			defer func() { free <- w }()
			x := newTrial(t, w, seed)
			outcome, problems := one(x)
			o.add(outcome)
			if len(problems) > 0 {
				t.Errorf("VMFERRY_SEED=%d: hit %s: %s\n%s\n%s\n%s", seed, x.phase, outcome, strings.Join(problems, "\n"), strings.Join(x.log, "\n"), x.said())
			}
			return nil
		})
	}
	group.Wait()
	for _, what := range slices.Sorted(maps.Keys(o.counts)) {
		t.Logf("%3d hit %s", o.counts[what], what)
	}
	if alone || count < trialsOfAKind {
		return nil
	}
	return o
}

func number(t *testing.T, variable string, n *uint64) bool {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return false
	}
	var err error
	if *n, err = strconv.ParseUint(text, 10, 32); err != nil || *n == 0 {
		t.Fatalf("%s=%s: want a number from 1 on", variable, text)
	}
	return true
}

// newTrial draws a machine and a link.
func newTrial(t *testing.T, w *wire, seed uint64) *trial {
	r := rand.New(rand.NewPCG(seed, 0x6e65746e73))
	x := &trial{parts: parts{t: t, wire: w}, seed: seed, rng: r, seen: make(map[string]bool), took: make(map[string]time.Duration), phase: inNoPhase}
	x.cfg = Config{
		Machine: machine.Config{
			Memory: uint64(16+r.IntN(33)) << 20, Writers: 1 + r.IntN(3), Rate: 300 + r.IntN(600), Seed: seed,
		},
		Channels: 1 + r.IntN(4), Method: []string{"none", "none", "zlib", "zstd", "qpl"}[r.IntN(5)],
		Bandwidth: uint64(20+r.IntN(30)) << 20, Downtime: 20 * time.Millisecond,
		LinkTimeout: time.Second, Inquiry: 2 * time.Second, ConnectTimeout: 30 * time.Second,
		StandStill: time.Minute, FollowSpeed: true,
		WarmUp: 50 * time.Millisecond, GoOn: 50 * time.Millisecond,
		TellPaused: true,
	}
	rate := ""
	if r.IntN(3) == 0 {
		x.cfg.Bandwidth, rate = 0, "300mbit"
	}
	if rand.New(rand.NewPCG(seed, 0x6d61726b73)).IntN(2) == 0 {
		x.cfg.Machine.Log = machine.Marks
	}
	w.up()
	if err := w.shape(rate); err != nil {
		t.Error(err)
	}
	return x
}

// moment is an event, and the time after it within which a hit comes.
type moment struct {
	after string
	most  time.Duration
}

// aim chooses when to hit. Seeds take turns with the moments, so that all are
// tried.
func (x *trial) aim(moments ...moment) {
	m := moments[x.seed%uint64(len(moments))]
	x.after, x.wait = m.after, x.within(m.most)
}

// within draws a time.
func (x *trial) within(most time.Duration) time.Duration {
	return time.Duration(x.rng.Int64N(int64(most)))
}

// run runs the trial to its end.
func (x *trial) run() (saw, []string) {
	ctx, cancel := context.WithTimeout(x.t.Context(), hung)
	defer cancel()
	x.began = time.Now()
	s, err := watch(ctx, x.cfg, x.side, hung/2, x.show)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.over = true
	var problems []string
	if err != nil {
		problems = append(problems, err.Error())
	}
	if ctx.Err() != nil || s.cut {
		problems = append(problems, "a side hangs")
	}
	if x.phase == inNoPhase && (s.source == nil || s.source.Error != "") {
		problems = append(problems, "the migration failed by itself")
	}
	return s, problems
}

func (x *trial) show(from string, e Event) {
	x.mu.Lock()
	defer x.mu.Unlock()
	name := e.Event
	if e.Round != nil && e.Round.Last {
		name = "last round"
	}
	x.note("%s: %s %s", from, name, e.Error)
	if r := e.Round; r != nil {
		x.note("    %d pages in %v, %d left, %v expected", r.Pages(), r.Took, r.Remaining, r.ExpectedDowntime)
	}
	x.seen[from+" "+name], x.seen[name] = true, true
	if name == "ended" && !x.hitAt.IsZero() {
		x.took[from] = time.Since(x.hitAt)
	}
	if name == x.after && x.timer == nil {
		x.timer = time.AfterFunc(x.wait, x.strike)
	}
}

func (x *trial) note(format string, args ...any) {
	at := float64(time.Since(x.began).Microseconds()) / 1000
	x.log = append(x.log, fmt.Sprintf("%7.1f ms  "+format, append([]any{at}, args...)...))
}

// strike breaks what the trial is to break.
func (x *trial) strike() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return
	}
	x.hitAt = time.Now()
	switch {
	case x.seen["source ended"]:
		x.phase = inNoPhase
	case x.seen["running"]:
		x.phase = inHandedOver
	case x.seen["paused"]:
		x.phase = inStandstill
	case x.seen["round"]:
		x.phase = inRounds
	default:
		x.phase = inFirstRound
	}
	x.note("hit %s", x.phase)
	x.hit()
}

// inTime says which side took longer to end than it may, from the hit on.
func (x *trial) inTime(side string, most time.Duration) (problems []string) {
	if took := x.took[side]; took > most+endSlack {
		problems = append(problems, fmt.Sprintf("the %s ended %v after the hit; %v is enough", side, took, most))
	}
	return problems
}

// check says what is wrong whatever happened to both sides: a side that ran and
// did not have everything, two that ran, or none.
func (x *trial) check(s saw) (problems []string) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	last := make([]uint64, x.cfg.Machine.Writers)
	if s.paused != nil {
		last = s.paused.Facts.Counters
	}
	if s.arrived != nil {
		if s.paused == nil {
			problem("the destination has everything of a machine that was never paused")
		} else {
			problems = append(problems, lost(*s.paused.Facts, *s.arrived.Facts)...)
		}
	}
	if s.running != nil && s.arrived == nil {
		problem("the destination runs without everything")
	}
	if s.destination != nil && s.destination.Runs != (s.running != nil) {
		problem("the destination says that it runs: %v first, and %v in the end", s.running != nil, s.destination.Runs)
	}
	if s.destination != nil && s.destination.Runs {
		problems = append(problems, gaps("the destination", last, s.destination)...)
	}
	if s.destination != nil && s.destinationErr != nil && !x.killed("destination", s.destinationErr) {
		problem("the destination: %v", s.destinationErr)
	}
	if s.source == nil {
		return problems
	}
	if s.sourceErr != nil && !x.killed("source", s.sourceErr) {
		problem("the source: %v", s.sourceErr)
	}
	switch e := s.source; {
	case !e.Runs && s.paused == nil:
		problem("the source stands still, and was never paused: %s", e.Error)
	case e.Runs:
		problems = append(problems, gaps("the source", last, e)...)
		if e.Error == "" {
			problem("the source runs, and says that the machine moved")
		}
		if s.destination != nil && s.destination.Runs {
			problem("both sides run")
		}
	case e.Undecided:
		problems = append(problems, lost(*s.paused.Facts, *e.Facts)...)
	case e.Error != "":
		problem("the source does not run, and that is not undecided: %s", e.Error)
	default:
		problems = append(problems, lost(*s.paused.Facts, *e.Facts)...)
		if s.running == nil {
			problem("the source says that the machine moved, and the destination never ran")
		}
	}
	return problems
}

// ended says in words how a trial ended.
func ended(s saw) string {
	source, destination := "is dead", "is dead"
	switch e := s.source; {
	case e == nil:
	case e.Runs && strings.Contains(e.Error, "the destination is dead"):
		source = "stood still, had let it run, and goes on"
	case e.Runs && e.Outcome.Downtime > 0:
		source = "stood still and goes on"
	case e.Runs:
		source = "goes on"
	case e.Undecided:
		source = "is undecided"
	default:
		source = "gave the machine away"
	}
	switch e := s.destination; {
	case e == nil && s.running != nil:
		destination = "ran and is dead"
	case e == nil:
	case e.Runs:
		destination = "runs"
	default:
		destination = "does not run"
	}
	return fmt.Sprintf("the source %s, the destination %s", source, destination)
}

// wantAtLeast has the trials cover what they are for.
func (o *outcomes) wantAtLeast(t *testing.T, least map[string]int) {
	t.Helper()
	for text, n := range least {
		if got := o.of(text); got < n {
			t.Errorf("%d trials %q (want at least %d): what they are for is hardly tested", got, text, n)
		}
	}
}
