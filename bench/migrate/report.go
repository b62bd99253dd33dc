package main

import (
	"bytes"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/vmferry/vmferry/bench/chart"
	"github.com/vmferry/vmferry/bench/harness"
	"github.com/vmferry/vmferry/internal/probe"
)

// report is the document about a run.
type report struct {
	bench   *bench
	results results
	took    time.Duration
}

func (r *report) markdown(sections []harness.Section) []byte {
	var b bytes.Buffer
	g := r.bench.guest
	fmt.Fprintf(&b, "# Migration of a QEMU machine over slow links: results\n\n"+
		"Notes, written by `make bench-migrate`: `scripts/setup demo` prepares QEMU, and `cd bench && go run ./migrate` measures, in %.0f minutes. "+
		"Medians of %d runs (%s: %d), ways in turn; × is the median of the ratios to %s within each run (with the busy guest: to %s). "+
		"**Compare rows of one table**: both QEMUs, both relays and the emulated guest share %d processors (%s).%s\n\n",
		r.took.Minutes(), r.bench.runs, slowest, r.bench.slowRuns, baseline, qemuZstd, runtime.NumCPU(), probe.Processor(), harness.MemoryReporting())
	fmt.Fprintf(&b, "The ends of the link are two network namespaces with a veth pair between them. Its rate is limited in both directions by tc's tbf; %s. "+
		"The guest has %d MiB, of which %d MiB (and Linux, about 90 MiB) are not zero: text (half), pointers (a quarter), noise (a quarter). "+
		"In %d MiB it writes %d pages a second (%d MiB/s) at random places: of %d %% of them a counter, some fields and some words of text change (up to 4 places of up to 64 bytes), of the others all. "+
		"The busy guest writes %d pages a second in %d MiB. "+
		"All migrations have %d multifd channels, a return path and QEMU's default downtime limit of %d ms. QEMU zstd has level 1. "+
		"Behind relays, QEMU compresses and encrypts nothing and the QEMUs use unix sockets.\n\n",
		r.delay(), memoryMiB, g.FillMiB+g.WorkMiB, g.WorkMiB, g.RateMiBps*256, g.RateMiBps, g.PartPercent, busyGuest.RateMiBps*256, busyGuest.WorkMiB, channels, downtimeMS)
	b.WriteString("Total and downtime are those of QEMU's query-migrate. MB are the bytes that the veth devices sent, in both directions. " +
		"CPU seconds are those of the processes' clocks from the command to the end; without the guest, the thread that emulates the guest is left out. " +
		"Guest's pages/s is how many pages the guest rewrote during the migration: what the migration left it of the processors.\n")
	for i := range sections {
		fmt.Fprintf(&b, "\n## %s\n\n", sections[i].Title)
		sections[i].WriteMarkdown(&b)
	}
	return b.Bytes()
}

func (r *report) delay() string {
	if r.bench.delay == 0 {
		return "there is no delay"
	}
	return fmt.Sprintf("a proxy delays each way by %v", r.bench.delay)
}

// sections returns a section for each link, and one with the charts.
func (r *report) sections() (all []harness.Section) {
	for _, l := range r.bench.links {
		all = append(all, r.section(l))
	}
	return append(all, r.summary())
}

func (r *report) section(l link) harness.Section {
	s := harness.Section{Part: l.name, Title: l.name, Head: []string{"way", "total s", "×", "downtime ms", "rounds", "MB on the link", "×",
		"QEMU CPU s", "without the guest", "source", "destination", "×", "relays CPU s", "guest's pages/s", "given up"}}
	for _, w := range l.of(r.bench.ways) {
		runs := r.results[l.name][w.name]
		good := slices.DeleteFunc(slices.Clone(runs), func(f figures) bool { return f.diverged })
		of := func(format string, value func(figures) float64) string {
			if len(good) == 0 {
				return "–"
			}
			return fmt.Sprintf(format, probe.MedianOf(good, value))
		}
		s.Rows = append(s.Rows, []string{w.name, of("%.2f", seconds), r.times(l, w.name, l.baseline, seconds), of("%.0f", downtime), of("%.0f", rounds),
			of("%.1f", megabytes), r.times(l, w.name, l.baseline, megabytes), of("%.2f", processCPU), of("%.2f", qemuCPU), of("%.2f", qemuSourceCPU), of("%.2f", qemuDestinationCPU),
			r.times(l, w.name, l.baseline, qemuCPU), of("%.2f", relayCPU), of("%.0f", writes), fmt.Sprintf("%d of %d", len(runs)-len(good), len(runs))})
	}
	s.Findings = r.findings(l)
	return s
}

// ratio returns the median of the ratios of two ways, of the runs in which neither was given
// up. It reports false if there is none.
func (r *report) ratio(l link, way, to string, of func(figures) float64) (float64, bool) {
	a, b := r.results[l.name][way], r.results[l.name][to]
	var x, y []figures
	for i := range min(len(a), len(b)) {
		if a[i].ok() && b[i].ok() {
			x, y = append(x, a[i]), append(y, b[i])
		}
	}
	return harness.Ratio(x, y, of), len(x) > 0
}

func (r *report) times(l link, way, to string, of func(figures) float64) string {
	v, ok := r.ratio(l, way, to, of)
	if !ok {
		return "–"
	}
	return fmt.Sprintf("%.2f", v)
}

// aim is what the relays should reach at a link.
type aim struct {
	link, to string
	what     string
	of       func(figures) float64
	most     float64 // ratio
}

var aims = []aim{
	{middle, baseline, "total time", seconds, 0.5},
	{middle, qemuZstd, "total time", seconds, 1},
	{middle, baseline, "CPU seconds of QEMU without the guest", qemuCPU, 1},
	{slowest, qemuZstd, "bytes on the link", megabytes, 0.8},
	{busiest, qemuZstd, "bytes on the link", megabytes, 0.8},
	{unlimited, baseline, "total time", seconds, 1.25},
}

func (r *report) findings(l link) (all []string) {
	for _, a := range aims {
		if a.link != l.name {
			continue
		}
		if got, ok := r.ratio(l, firstRelay, a.to, a.of); ok {
			all = append(all, fmt.Sprintf("%s takes %.2f of the %s of %s (aim: at most %.2f, %s).", firstRelay, got, a.what, a.to, a.most, harness.Verdict(got <= a.most)))
		}
	}
	return all
}

// summary has the charts.
func (r *report) summary() harness.Section {
	s := harness.Section{Title: "All links", Head: []string{"total time"}}
	for _, l := range r.bench.links {
		s.Head = append(s.Head, l.name)
	}
	for _, w := range r.bench.ways {
		row := []string{w.name}
		for _, l := range r.bench.links {
			row = append(row, strings.Replace(r.times(l, w.name, l.baseline, seconds)+" ×", "– ×", "–", 1))
		}
		s.Rows = append(s.Rows, row)
	}
	plotted := r.bench.plotted()
	if len(plotted) == 0 {
		return s
	}
	s.Charts = []harness.NamedChart{
		{File: "migrate-time.svg", Chart: r.bars("Total time beside "+baseline, "ratio to "+baseline, seconds)},
		{File: "migrate-bytes.svg", Chart: r.bars("Bytes on the link beside "+baseline, "ratio to "+baseline, megabytes)},
		{File: "migrate-cpu.svg", Chart: r.cpuBars(plotted[len(plotted)/2])},
	}
	return s
}

// plotted are the links of the plots: those with the same guest and baseline.
func (b *bench) plotted() []link {
	return slices.DeleteFunc(slices.Clone(b.links), func(l link) bool { return l.busy })
}

// bars draws the ratios to the baseline.
func (r *report) bars(title, unit string, of func(figures) float64) chart.Bars {
	c := chart.Bars{Title: title, Unit: unit}
	for _, w := range r.bench.ways {
		g := chart.Group{Name: w.name}
		for _, l := range r.bench.plotted() {
			v, _ := r.ratio(l, w.name, baseline, of) // NaN without a ratio, which is a dash
			g.Bars = append(g.Bars, chart.Bar{Name: l.name, Value: v})
		}
		c.Groups = append(c.Groups, g)
	}
	return c
}

// cpuBars draws who spends processor time at a link.
func (r *report) cpuBars(l link) chart.Bars {
	c := chart.Bars{Title: "CPU of a migration at " + l.name, Unit: "CPU seconds, without the guest"}
	for _, w := range r.bench.ways {
		runs := slices.DeleteFunc(slices.Clone(r.results[l.name][w.name]), func(f figures) bool { return f.diverged })
		g := chart.Group{Name: w.name}
		values := map[string]func(figures) float64{"both QEMUs": qemuCPU, "both relays": relayCPU}
		for _, name := range slices.Sorted(maps.Keys(values)) {
			g.Bars = append(g.Bars, chart.Bar{Name: name, Value: probe.MedianOf(runs, values[name])})
		}
		c.Groups = append(c.Groups, g)
	}
	return c
}
