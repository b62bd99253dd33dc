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
	"github.com/vmferry/vmferry/internal/slowlink"
)

const (
	trialsPerTest = 50
	// parallelTrials is how many trials run at a time, each over a link of its own.
	// They mostly wait.
	parallelTrials = 4
	// trialTimeout bounds a trial.
	trialTimeout = 5 * time.Minute
	// endSlack is added to the time that a side has for its end: for a busy processor,
	// for the rest of an undisturbed migration, and for hashing memory. It is shorter
	// than the default timeouts, so a trial notices if a side ignores its configuration.
	endSlack = time.Minute
)

// trial is a migration with a fault at a moment that the seed chooses.
type trial struct {
	processes
	seed uint64
	rng  *rand.Rand
	cfg  Config
	// The fault is injected at the time wait after the first event with the name after.
	// "last round" is one of the names.
	after string
	wait  time.Duration
	fault func()

	mu      sync.Mutex
	seen    map[string]bool
	began   time.Time
	log     []string
	timer   *time.Timer
	phase   string // in which the fault was injected
	faultAt time.Time
	took    map[string]time.Duration // from the fault to the end of a side
	ended   bool                     // too late for a fault
}

// The phases in which a fault can be injected.
const (
	inFirstRound  = "before the end of the first round"
	inLaterRounds = "in later rounds"
	whilePaused   = "while the machine was paused"
	afterHandover = "while the destination ran"
	afterTheEnd   = "after the migration"
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

// containing returns the number of trials whose outcome contains the text.
func (o *outcomes) containing(text string) (n int) {
	for what, count := range o.counts {
		if strings.Contains(what, text) {
			n += count
		}
	}
	return n
}

// runTrials runs the trials of a test and returns their outcomes. It returns nil if the
// environment asks for fewer trials: VMFERRY_SEED=n runs the trial with that seed,
// VMFERRY_RUNS=n runs n trials.
func runTrials(t *testing.T, one func(x *trial) (outcome string, problems []string)) *outcomes {
	t.Helper()
	first, count := uint64(1), uint64(trialsPerTest)
	alone := number(t, "VMFERRY_SEED", &first)
	if alone {
		count = 1
	}
	number(t, "VMFERRY_RUNS", &count)
	free := make(chan *slowlink.Link, parallelTrials)
	for range min(parallelTrials, count) {
		free <- slowlink.Start(t)
	}
	o := &outcomes{counts: make(map[string]int)}
	var group errgroup.Group
	group.SetLimit(parallelTrials)
	for seed := first; seed < first+count; seed++ {
		group.Go(func() error {
			l := <-free
			defer func() { free <- l }()
			x := newTrial(t, l, seed)
			outcome, problems := one(x)
			o.add(outcome)
			if len(problems) > 0 {
				t.Errorf("VMFERRY_SEED=%d: fault %s: %s\n%s\n%s\n%s", seed, x.phase, outcome, strings.Join(problems, "\n"), strings.Join(x.log, "\n"), x.logs())
			}
			return nil
		})
	}
	group.Wait()
	for _, what := range slices.Sorted(maps.Keys(o.counts)) {
		t.Logf("%3d faults %s", o.counts[what], what)
	}
	if alone || count < trialsPerTest {
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

// newTrial chooses a machine and a link by the seed.
func newTrial(t *testing.T, l *slowlink.Link, seed uint64) *trial {
	r := rand.New(rand.NewPCG(seed, 0x6e65746e73))
	x := &trial{processes: processes{t: t, link: l}, seed: seed, rng: r, seen: make(map[string]bool), took: make(map[string]time.Duration), phase: afterTheEnd}
	x.cfg = Config{
		Machine: machine.Config{
			Memory: uint64(16+r.IntN(33)) << 20, Writers: 1 + r.IntN(3), Rate: 300 + r.IntN(600), Seed: seed,
		},
		Channels: 1 + r.IntN(4), Method: []string{"none", "none", "zlib", "zstd", "qpl"}[r.IntN(5)],
		Bandwidth: uint64(20+r.IntN(30)) << 20, Downtime: 20 * time.Millisecond,
		LinkTimeout: time.Second, Inquiry: 2 * time.Second, ConnectTimeout: 30 * time.Second,
		StandStill: time.Minute, FollowSpeed: true,
		WarmUp: 50 * time.Millisecond, GoOn: 50 * time.Millisecond,
		ReportPaused: true,
	}
	rate := ""
	if r.IntN(3) == 0 {
		x.cfg.Bandwidth, rate = 0, "300mbit"
	}
	if rand.New(rand.NewPCG(seed, 0x6d61726b73)).IntN(2) == 0 {
		x.cfg.Machine.Log = machine.Marks
	}
	l.SetUp()
	if err := l.LimitRate(rate); err != nil {
		t.Error(err)
	}
	up, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := l.AwaitUp(up); err != nil {
		t.Error(err)
	}
	return x
}

// moment is an event, and the time after it within which the fault is injected.
type moment struct {
	after string
	most  time.Duration
}

// chooseMoment chooses the moment of the fault. Consecutive seeds choose consecutive
// moments, so that all are tried.
func (x *trial) chooseMoment(moments ...moment) {
	m := moments[x.seed%uint64(len(moments))]
	x.after, x.wait = m.after, x.randomDuration(m.most)
}

// randomDuration returns a random duration below most.
func (x *trial) randomDuration(most time.Duration) time.Duration {
	return time.Duration(x.rng.Int64N(int64(most)))
}

// run runs the trial until both sides have ended.
func (x *trial) run() (observed, []string) {
	ctx, cancel := context.WithTimeout(x.t.Context(), trialTimeout)
	defer cancel()
	x.began = time.Now()
	s, err := runSides(ctx, x.cfg, x.side, trialTimeout/2, x.show)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ended = true
	var problems []string
	if err != nil {
		problems = append(problems, err.Error())
	}
	if ctx.Err() != nil || s.destinationKilled {
		problems = append(problems, "a side did not end")
	}
	if x.phase == afterTheEnd && (s.source == nil || s.source.Error != "") {
		problems = append(problems, "the migration failed without a fault")
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
	x.logf("%s: %s %s", from, name, e.Error)
	if r := e.Round; r != nil {
		x.logf("    %d pages in %v, %d left, %v expected", r.Pages(), r.Took, r.Remaining, r.ExpectedDowntime)
	}
	x.seen[from+" "+name], x.seen[name] = true, true
	if name == "ended" && !x.faultAt.IsZero() {
		x.took[from] = time.Since(x.faultAt)
	}
	if name == x.after && x.timer == nil {
		x.timer = time.AfterFunc(x.wait, x.injectFault)
	}
}

func (x *trial) logf(format string, args ...any) {
	at := float64(time.Since(x.began).Microseconds()) / 1000
	x.log = append(x.log, fmt.Sprintf("%7.1f ms  "+format, append([]any{at}, args...)...))
}

// injectFault injects the fault of the trial and records the phase.
func (x *trial) injectFault() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended {
		return
	}
	x.faultAt = time.Now()
	switch {
	case x.seen["source ended"]:
		x.phase = afterTheEnd
	case x.seen["running"]:
		x.phase = afterHandover
	case x.seen["paused"]:
		x.phase = whilePaused
	case x.seen["round"]:
		x.phase = inLaterRounds
	default:
		x.phase = inFirstRound
	}
	x.logf("fault %s", x.phase)
	x.fault()
}

// checkEnd checks that a side ended within most after the fault.
func (x *trial) checkEnd(side string, most time.Duration) (problems []string) {
	if took := x.took[side]; took > most+endSlack {
		problems = append(problems, fmt.Sprintf("the %s ended %v after the fault, want at most %v", side, took, most))
	}
	return problems
}

// check checks what must hold after every fault: a side that runs has the whole machine,
// and not both sides run.
func (x *trial) check(s observed) (problems []string) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	last := make([]uint64, x.cfg.Machine.Writers)
	if s.paused != nil {
		last = s.paused.Facts.Counters
	}
	if s.arrived != nil {
		if s.paused == nil {
			problem("the destination loaded a machine that was never paused")
		} else {
			problems = append(problems, compareFacts(*s.paused.Facts, *s.arrived.Facts)...)
		}
	}
	if s.running != nil && s.arrived == nil {
		problem("the destination runs a machine that it did not load")
	}
	if s.destination != nil && s.destination.Runs != (s.running != nil) {
		problem("the destination reported running: %v first, %v at the end", s.running != nil, s.destination.Runs)
	}
	if s.destination != nil && s.destination.Runs {
		problems = append(problems, counterGaps("the destination", last, s.destination)...)
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
		problem("the source does not run, and was never paused: %s", e.Error)
	case e.Runs:
		problems = append(problems, counterGaps("the source", last, e)...)
		if e.Error == "" {
			problem("the source runs, and reports success")
		}
		if s.destination != nil && s.destination.Runs {
			problem("both sides run")
		}
	case e.Undecided:
		problems = append(problems, compareFacts(*s.paused.Facts, *e.Facts)...)
	case e.Error != "":
		problem("the source does not run after an error, and is not undecided: %s", e.Error)
	default:
		problems = append(problems, compareFacts(*s.paused.Facts, *e.Facts)...)
		if s.running == nil {
			problem("the source reports success, and the destination never ran")
		}
	}
	return problems
}

// describeEnds describes how both sides of a trial ended.
func describeEnds(s observed) string {
	source, destination := "is dead", "is dead"
	switch e := s.source; {
	case e == nil:
	case e.Runs && strings.Contains(e.Error, "the destination is dead"):
		source = "resumed after the handover"
	case e.Runs && e.Outcome.Downtime > 0:
		source = "paused and runs again"
	case e.Runs:
		source = "runs"
	case e.Undecided:
		source = "is undecided"
	default:
		source = "handed the machine over"
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

// requireCounts checks that at least so many outcomes contain each text.
func (o *outcomes) requireCounts(t *testing.T, least map[string]int) {
	t.Helper()
	for text, n := range least {
		if got := o.containing(text); got < n {
			t.Errorf("%d trials with outcome %q, want at least %d", got, text, n)
		}
	}
}
