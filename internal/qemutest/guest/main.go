// Command guest is the workload inside the test machines: it fills memory
// with pages that can be checked, goes on rewriting some of them, and says on
// the console how it fares.
//
//	vmferry-guest: ready fill=40 work=8 rate=4
//	vmferry-guest: count=123 pages=4567 rounds=3 ok
//
// A count line comes about every 100 ms of guest time. pages is how many
// pages were rewritten so far, rounds how often all pages were checked from
// the first to the last. A page that is not what was last written to it gives
//
//	vmferry-guest: CORRUPT page=17 ...
//
// and from then on the count lines end in corrupt=N in place of ok.
//
// Sizes come from the kernel's command line, in MiB and MiB a second:
// vmferry.fill= (written once and then only checked), vmferry.work= (rewritten
// at random), vmferry.rate= (how fast).
package main

import (
	"fmt"
	"io"
	"os"
	"time"
)

const (
	tick          = 10 * time.Millisecond
	ticksPerCount = 10

	// checksPerTick is how many pages are looked at beside those that are
	// rewritten: 16 MiB a second.
	checksPerTick = 40
)

func main() {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		fail(err)
	}
	opts, err := parseOptions(string(cmdline))
	if err != nil {
		fail(err)
	}
	w, err := newWorkload(opts)
	if err != nil {
		fail(err)
	}
	say(os.Stdout, "ready fill=%d work=%d rate=%d", opts.fillMiB, opts.workMiB, opts.rateMiBps)
	run(w, os.Stdout, time.NewTicker(tick).C)
}

func fail(err error) {
	say(os.Stdout, "FAILED %v", err)
	os.Exit(1)
}

// say prints one line. It is one write, so that the kernel's own messages do
// not come in between.
func say(out io.Writer, format string, args ...any) {
	fmt.Fprintf(out, "vmferry-guest: "+format+"\n", args...)
}

// run works through ticks until they end.
func run(w *workload, out io.Writer, ticks <-chan time.Time) {
	n := 0
	for range ticks {
		w.step(out)
		if n++; n%ticksPerCount == 0 {
			verdict := "ok"
			if w.corrupt > 0 {
				verdict = fmt.Sprintf("corrupt=%d", w.corrupt)
			}
			say(out, "count=%d pages=%d rounds=%d %s", n/ticksPerCount, w.rewritten, w.rounds, verdict)
		}
	}
}
