package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/vmferry/vmferry/bench/harness"
	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/internal/slowlink"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == harness.SideArgument {
		exit(harness.RunSide(os.Stdin, os.Stdout, nil))
	}
	var b bench
	var ways, links string
	flag.StringVar(&b.vmferry, "vmferry", "../bin/vmferry", "program whose relays are measured")
	flag.StringVar(&b.out, "out", "", "folder to write to (../docs/notes, if everything is measured)")
	flag.IntVar(&b.runs, "runs", 5, "runs of each way; medians are reported")
	flag.IntVar(&b.slowRuns, "slow-runs", 3, "runs of each way at "+slowest)
	flag.BoolVar(&b.quick, "quick", false, "one run of the most important ways")
	flag.StringVar(&ways, "ways", "", "ways to measure, with commas: "+list(allWays, func(w way) string { return w.name }))
	flag.StringVar(&links, "links", "", "links to measure, with commas: "+list(allLinks, func(l link) string { return l.name }))
	flag.IntVar(&b.guest.FillMiB, "fill", 112, "memory that the guest writes once, MiB")
	flag.IntVar(&b.guest.WorkMiB, "work", 32, "memory that the guest rewrites, MiB")
	flag.IntVar(&b.guest.RateMiBps, "rate", 8, "rate at which the guest rewrites it, MiB/s")
	flag.IntVar(&b.guest.PartPercent, "part", 70, "percentage of the rewritten pages of which only a few places change")
	flag.DurationVar(&b.delay, "delay", 0, "delay of the link each way, by a proxy")
	flag.Parse()
	var err1, err2 error
	b.ways, err1 = chooseWays(ways, b.quick)
	b.links, err2 = chooseLinks(links, b.quick)
	if err := errors.Join(err1, err2); err != nil {
		exit(err)
	}
	if b.quick {
		b.runs, b.slowRuns = 1, 1
	}
	selects := []string{"quick", "ways", "links", "fill", "work", "rate", "part", "delay"}
	whole := true
	flag.Visit(func(f *flag.Flag) { whole = whole && !slices.Contains(selects, f.Name) })
	if b.out == "" && whole {
		b.out = "../docs/notes"
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	exit(b.run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "migrate:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// bench is a run of the program.
type bench struct {
	vmferry        string
	out            string // "": nothing is written
	runs, slowRuns int
	quick          bool
	ways           []way
	links          []link
	guest          qemutest.Config // its workload
	delay          time.Duration

	dir    string // of sockets and certificates
	wire   *slowlink.Link
	source map[bool]*machine // that is migrated again and again, by link.busy
}

// results are the figures of each run, by link and by way.
type results map[string]map[string][]figures

func (b *bench) run(ctx context.Context) (err error) {
	began := time.Now()
	if b.dir, err = os.MkdirTemp("", "vfb"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.writeCertificates(); err != nil {
		return err
	}
	if b.wire, err = slowlink.New(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.wire.Close()) }()
	b.source = make(map[bool]*machine)
	for _, l := range b.links {
		if b.source[l.busy] != nil {
			continue
		}
		m, err := b.startSource(ctx, l)
		if err != nil {
			return err
		}
		defer m.close()
		b.source[l.busy] = m
	}
	all, err := b.measureAll(ctx)
	if err != nil {
		return err
	}
	r := report{b, all, time.Since(began)}
	sections := r.sections()
	text := r.markdown(sections)
	os.Stdout.Write(text)
	if b.out == "" {
		return nil
	}
	return harness.WriteDocument(b.out, "migrate-results.md", text, sections)
}

// measureAll measures all ways in turn, so that a temporary load affects all of them.
func (b *bench) measureAll(ctx context.Context) (results, error) {
	all := make(results)
	for run := range max(b.runs, b.slowRuns) {
		for _, l := range b.links {
			runs := b.runs
			if l.slow {
				runs = b.slowRuns
			}
			if run >= runs {
				continue
			}
			if err := b.wire.LimitRate(l.rate); err != nil {
				return nil, err
			}
			if all[l.name] == nil {
				all[l.name] = make(map[string][]figures)
			}
			ways := l.of(b.ways)
			if run%2 == 1 { // what a way leaves behind affects another one then
				slices.Reverse(ways)
			}
			for _, w := range ways {
				f, err := b.measure(ctx, l, w)
				if err != nil {
					return nil, fmt.Errorf("%s at %s: %w", w.name, l.name, err)
				}
				fmt.Fprintf(os.Stderr, "run %d of %d, %s, %s: %v\n", run+1, runs, l.name, w.name, f)
				all[l.name][w.name] = append(all[l.name][w.name], f)
			}
		}
	}
	return all, nil
}
