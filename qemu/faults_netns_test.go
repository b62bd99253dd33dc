//go:build netns && realqemu

package qemu_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/internal/slowlink"
	"github.com/vmferry/vmferry/internal/soak"
	"github.com/vmferry/vmferry/qmp"
)

// The faults of a trial. A killed side is that of vmferry; its QEMU lives.
const (
	killSource      = "kill the source's side"
	killDestination = "kill the destination's side"
	cutLink         = "cut the link"
	stallLink       = "stall the link"
	// The link makes connections again before the source's side ends.
	cutLinkForAWhile = "cut the link for a while"
)

var faultKinds = []string{killSource, killDestination, cutLink, stallLink}

// Where a machine runs, by the words of a command.
const (
	runsAtSource      = "source"
	runsAtDestination = "destination"
	runsUndecided     = "undecided"
)

const (
	// commandBound is how long a command may take to end after a fault: the times of
	// the link, of the inquiry and of QEMU's end, and slack for a busy processor.
	commandBound = 3 * time.Minute
	// answerBound is how long a QEMU may take to answer before the test takes it for one
	// that never answers again, and silentBound how long such a QEMU gets afterwards.
	answerBound = 5 * time.Second
	silentBound = 100 * time.Millisecond
)

// mover moves a machine from one QEMU to another over a link.
type mover interface {
	// start begins the migration.
	start() error
	// drive returns when the migration has ended at the source, with the place where
	// the machine runs as the source's side says it: "" if that side was killed.
	drive(ctx context.Context) (said string, err error)
	kill(slowlink.End)
	// finish ends what is left, and returns what the destination's side says, "" if it
	// says nothing.
	finish(ctx context.Context) (said string, err error)
	log() string
}

// host is a QEMU, with a monitor of the test's own.
type host struct {
	*qemutest.VM
	look   *qmp.Client
	silent bool // QEMU did not answer
}

func launch(t *testing.T, cfg qemutest.Config) *host {
	t.Helper()
	vm, err := qemutest.Launch(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(vm.Close)
	return &host{VM: vm, look: dial(t, vm.QMPPath2())}
}

// runs tells whether QEMU runs its machine. A QEMU that is gone or does not answer does
// not: see destination.describeState.
func (h *host) runs() bool { return h.state() == qmp.StateRunning }

// state returns the run state, or why QEMU does not say it.
func (h *host) state() string {
	bound := answerBound
	if h.silent {
		bound = silentBound
	}
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	status, err := h.look.QueryStatus(ctx)
	if h.silent = err != nil; h.silent {
		return err.Error()
	}
	return status.Status
}

// faultTrials are migrations of one machine over one link, with a fault each.
type faultTrials struct {
	t    *testing.T
	link *faultyLink
	// incomingPaused leaves the machine paused at the destination.
	incomingPaused bool
	mover          func(link *faultyLink, src, dst *host) mover

	src *host
	// left is how long a migration without a fault took, from each moment to its end.
	left     map[moment]time.Duration
	outcomes map[string]int
}

// runFaultTrials runs the trials at each rate. VMFERRY_SEED is the first seed and
// VMFERRY_RUNS the number of trials.
func runFaultTrials(t *testing.T, incomingPaused bool, m func(link *faultyLink, src, dst *host) mover) {
	for _, rate := range []linkRate{{"1gbit", 1e9, soak.Times(2, 40)}, {"100mbit", 100e6, soak.Times(1, 40)}} {
		t.Run(rate.name, func(t *testing.T) {
			t.Parallel()
			x := &faultTrials{t: t, link: newFaultyLink(t, rate), incomingPaused: incomingPaused, mover: m, left: make(map[moment]time.Duration), outcomes: make(map[string]int)}
			x.src = launch(t, qemutest.Config{MemoryMiB: 128, FillMiB: 4, WorkMiB: 4, RateMiBps: 4})
			if err := x.src.WaitReady(soon(t)); err != nil {
				t.Fatal(err)
			}
			x.run(&faultTrial{kind: "no fault"})
			first := number(t, "VMFERRY_SEED", 1)
			count := number(t, "VMFERRY_RUNS", rate.trials*len(faultKinds))
			for seed := first; seed < first+count; seed++ {
				x.run(x.choose(seed))
			}
			for _, what := range slices.Sorted(maps.Keys(x.outcomes)) {
				t.Logf("%3d %s", x.outcomes[what], what)
			}
		})
	}
}

func number(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: want a number from 1 on", variable, text)
	}
	return n
}

// moment is a moment of a migration.
type moment string

const (
	atStart      moment = "the start"
	atPause      moment = "the pause"
	atCompletion moment = "the completion" // at the source's QEMU; the handover follows
)

// faultTrial is a migration with a fault.
type faultTrial struct {
	seed int
	kind string
	end  slowlink.End // at which the link stalls
	// A cut link makes connections again after the outage, or not if it is 0.
	outage time.Duration
	// The fault comes wait after a moment.
	after moment
	wait  time.Duration

	src, dst *host
	mover    mover
	phase    string // in which the fault came
	reached  map[moment]time.Time
}

// choose chooses a fault and its moment by a seed. Half of the moments are anywhere in a
// migration. The others are in its short last phases, which chance would seldom hit.
func (x *faultTrials) choose(seed int) *faultTrial {
	rng := rand.New(rand.NewPCG(uint64(seed), uint64(x.link.rate.bits)))
	f := &faultTrial{seed: seed, kind: faultKinds[(seed-1)%len(faultKinds)], end: slowlink.End(rng.IntN(2))}
	if rng.IntN(2) == 0 {
		f.outage = time.Duration(rng.Int64N(int64(3 * time.Second)))
	}
	f.after = []moment{atStart, atPause, atStart, atCompletion}[(seed-1)/len(faultKinds)%4]
	f.wait = time.Duration(rng.Float64() * float64(x.left[f.after]))
	return f
}

func (f *faultTrial) String() string {
	return fmt.Sprintf("VMFERRY_SEED=%d: %s %v after %s (%s)", f.seed, f.kind, f.wait.Round(time.Millisecond), f.after, f.phase)
}

// run runs a trial, and checks that exactly one machine runs afterwards, that it has lost
// nothing, and that the commands said which one.
func (x *faultTrials) run(f *faultTrial) {
	x.link.repair()
	cfg := x.src.Config()
	cfg.Incoming, cfg.Paused = true, x.incomingPaused
	f.src, f.dst = x.src, launch(x.t, cfg)
	f.mover = x.mover(x.link, f.src, f.dst)
	said, err := x.migrate(f)
	ended := time.Now()
	if err != nil {
		x.fatalf(f, "%v", err)
	}
	undecided := said == runsUndecided
	if undecided {
		if f.kind == cutLinkForAWhile {
			x.fatalf(f, "the source could ask the destination, and is undecided")
		}
		said = x.followAdvice(f)
	}
	runner, other := x.awaitOne(f)
	if said != "" && (said == runsAtDestination) != (runner == f.dst) {
		x.fatalf(f, "the source's side says that the machine runs at the %s, which is wrong", said)
	}
	x.verify(f, runner)
	x.finish(f, runner, other)
	where := runsAtSource
	if runner == f.dst {
		where = runsAtDestination
	}
	if f.phase == "after the end" {
		if where != runsAtDestination {
			x.fatalf(f, "a migration without a fault fails")
		}
		for m, at := range f.reached {
			x.left[m] = ended.Sub(at)
		}
	}
	outcome := "the machine runs at the " + where
	if undecided {
		outcome += ", and the source's side was undecided"
	}
	x.outcomes[fmt.Sprintf("%s %s: %s", f.kind, f.phase, outcome)]++
	x.t.Logf("%v: %s; it took %v", f, outcome, ended.Sub(f.reached[atStart]).Round(time.Millisecond))
	other.Close()
	x.src = runner
}

// migrate runs the migration with its fault until its source's side has ended.
func (x *faultTrials) migrate(f *faultTrial) (said string, err error) {
	events := f.src.look.Subscribe("STOP", "MIGRATION")
	defer events.Close()
	f.reached = map[moment]time.Time{atStart: time.Now()}
	if err := f.mover.start(); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(x.t.Context(), hang)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		said, err = f.mover.drive(ctx)
	}()
	if !x.awaitMoment(f, events, done) {
		<-done
		return said, err
	}
	switch f.kind {
	case killSource:
		f.mover.kill(slowlink.Source)
	case killDestination:
		f.mover.kill(slowlink.Destination)
	case cutLink:
		x.link.cut()
	case stallLink:
		x.link.SetDown(f.end)
	}
	var back <-chan time.Time
	if f.kind == cutLink && f.outage > 0 {
		back = time.After(f.outage)
	}
	for late := time.After(commandBound); ; {
		select {
		case <-done:
			return said, err
		case <-back:
			x.link.join()
			f.kind = cutLinkForAWhile
		case <-late:
			cancel()
			<-done
			return "", fmt.Errorf("the source's side has not ended %v after the fault (%v)", commandBound, err)
		}
	}
}

// awaitMoment waits until the moment of the fault. It is false if the migration ends
// before.
func (x *faultTrials) awaitMoment(f *faultTrial, events *qmp.Subscription, done <-chan struct{}) bool {
	var due <-chan time.Time
	reach := func(m moment, phase string) {
		f.phase, f.reached[m] = phase, time.Now()
		if f.seed != 0 && f.after == m {
			due = time.After(f.wait)
		}
	}
	reach(atStart, "before the pause")
	for {
		select {
		case <-done:
			f.phase = "after the end"
			return false
		case <-due:
			return true
		case e := <-events.Events():
			switch {
			case e.Name == "STOP":
				reach(atPause, "after the pause")
			case strings.Contains(string(e.Data), `"completed"`):
				reach(atCompletion, "in the handover")
			}
		}
	}
}

// followAdvice does what the error of an undecided migration says.
func (x *faultTrials) followAdvice(f *faultTrial) string {
	if f.dst.runs() {
		f.src.Kill()
		return runsAtDestination
	}
	f.dst.Kill()
	if err := f.src.look.Cont(soon(x.t)); err != nil {
		x.fatalf(f, "letting the source run after an undecided migration: %v", err)
	}
	return runsAtSource
}

// awaitOne waits until one of the machines runs.
func (x *faultTrials) awaitOne(f *faultTrial) (runner, other *host) {
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		switch here, there := f.src.runs(), f.dst.runs(); {
		case here && there:
			x.fatalf(f, "the machine runs at both sides")
		case here:
			return f.src, f.dst
		case there:
			return f.dst, f.src
		case time.Since(began) > time.Minute:
			x.fatalf(f, "the machine runs nowhere")
		}
	}
}

// verify checks that the machine goes on where it was, and that its memory is whole.
func (x *faultTrials) verify(f *faultTrial, runner *host) {
	count, _ := f.src.Count()
	ctx := soon(x.t)
	err := runner.WaitCount(ctx, count+1)
	if err == nil {
		err = runner.WaitVerified(ctx)
	}
	if err != nil {
		x.fatalf(f, "the machine, which the source counted to %d: %v", count, err)
	}
}

// finish ends both sides, and checks what the destination's side says, and that the
// other machine still does not run.
func (x *faultTrials) finish(f *faultTrial, runner, other *host) {
	ctx, cancel := context.WithTimeout(x.t.Context(), commandBound)
	defer cancel()
	said, err := f.mover.finish(ctx)
	switch {
	case err != nil:
		x.fatalf(f, "%v", err)
	case (said == runsAtDestination) != (runner == f.dst) && (said == runsAtSource || said == runsAtDestination):
		x.fatalf(f, "the destination's side says that the machine runs at the %s, which is wrong", said)
	}
	for _, e := range []slowlink.End{slowlink.Source, slowlink.Destination} {
		x.link.awaitNoProcess(e)
	}
	if other.runs() || !runner.runs() {
		x.fatalf(f, "after both sides have ended, the machine does not run where it ran before")
	}
}

func (x *faultTrials) fatalf(f *faultTrial, format string, args ...any) {
	x.t.Helper()
	x.t.Fatalf("%v: %s\nthe source's QEMU: %s\nthe destination's QEMU: %s\n%s\n%s", f, fmt.Sprintf(format, args...), f.src.state(), f.dst.state(), f.mover.log(), f.dst.Stderr())
}
