// Command guest is the workload in the test machines. It fills memory with pages that it
// can check, rewrites some of them all the time, and reports its state on the console.
//
//	vmferry-guest: ready fill=40 work=8 rate=4
//	vmferry-guest: count=123 pages=4567 rounds=3 ok
//
// The workload prints a count line about every 100 ms of guest time. pages is the number of
// pages rewritten so far, and rounds is the number of times that all pages were checked. If
// a page does not hold what was last written to it, the workload prints
//
//	vmferry-guest: CORRUPT page=17 ...
//
// and all later count lines end in corrupt=N in place of ok.
//
// Sizes come from the kernel's command line, in MiB and MiB a second:
// vmferry.fill= (written once and then only checked), vmferry.work= (rewritten
// at random), vmferry.rate= (how fast). vmferry.part= is the percentage of the
// rewritten pages of which only a few places change.
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

	// checksPerTick is the number of pages to check in a tick, besides the rewritten
	// ones: 16 MiB a second.
	checksPerTick = 40
)

func main() {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		exitFailed(err)
	}
	opts, err := parseOptions(string(cmdline))
	if err != nil {
		exitFailed(err)
	}
	w, err := newWorkload(opts)
	if err != nil {
		exitFailed(err)
	}
	printLine(os.Stdout, "ready fill=%d work=%d rate=%d", opts.fillMiB, opts.workMiB, opts.rateMiBps)
	run(w, os.Stdout, time.NewTicker(tick).C)
}

func exitFailed(err error) {
	printLine(os.Stdout, "FAILED %v", err)
	os.Exit(1)
}

// printLine prints a line in one write, so that no message of the kernel splits it.
func printLine(out io.Writer, format string, args ...any) {
	fmt.Fprintf(out, "vmferry-guest: "+format+"\n", args...)
}

// run runs a step of the workload for each tick until ticks is closed.
func run(w *workload, out io.Writer, ticks <-chan time.Time) {
	n := 0
	for range ticks {
		w.step(out)
		if n++; n%ticksPerCount == 0 {
			verdict := "ok"
			if w.corrupt > 0 {
				verdict = fmt.Sprintf("corrupt=%d", w.corrupt)
			}
			printLine(out, "count=%d pages=%d rounds=%d %s", n/ticksPerCount, w.rewritten, w.rounds, verdict)
		}
	}
}
