package main

import (
	"context"
	"fmt"

	"github.com/vmferry/vmferry/bench/chart"
	"github.com/vmferry/vmferry/bench/harness"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/machine"
	"github.com/vmferry/vmferry/internal/probe"
)

// memoryKind says how both sides map memory, and how the destination preallocates it.
type memoryKind struct {
	pages    guestmem.PageKind
	prealloc guestmem.Prealloc
}

func (k memoryKind) String() string {
	return map[memoryKind]string{
		{guestmem.SmallPages, guestmem.PreallocNone}:      "small pages",
		{guestmem.SmallPages, guestmem.PreallocPopulate}:  "small pages, preallocated",
		{guestmem.TransparentHuge, guestmem.PreallocNone}: "transparent huge pages",
	}[k]
}

// limitWays are the bare copy and the methods to compare with it.
var limitWays = []struct{ name, method, log string }{
	{"bare copy", "", ""},
	{"vmferry none", "none", ""},
	{"vmferry none, marks", "none", machine.Marks},
}

// limit compares the method none with the bare copy, with memory without zero pages.
func (b *bench) limit(ctx context.Context) (harness.Section, error) {
	kinds := []memoryKind{{guestmem.SmallPages, guestmem.PreallocNone}, {guestmem.SmallPages, guestmem.PreallocPopulate}, {guestmem.TransparentHuge, guestmem.PreallocNone}}
	var cells []cell
	for _, k := range kinds {
		for _, w := range limitWays {
			j := b.job()
			j.DataMiB, j.Pages, j.Prealloc = j.MemoryMiB, k.pages, k.prealloc
			j.Method, j.Log = w.method, w.log
			cells = append(cells, vmferryCell(w.name+", "+k.String(), j))
		}
	}
	all, err := b.measure(ctx, "limit", cells)
	if err != nil {
		return harness.Section{}, err
	}
	s := harness.Section{
		Title: "The limit: none beside a bare copy",
		Text: []string{fmt.Sprintf("%d MiB without zero pages, over %d connections. The time is from the first connection to the last answer. "+
			"The bare copy writes 512 KiB at a time, the bytes of a packet of 128 pages. It reads them with readv into memory that is mapped "+
			"after the source has connected, as in the migration. It has no protocol and no dirty log, and does not look for zero pages. "+
			"The dirty log is the kernel's, or marks that the writers set. The difference between the two is the cost of write-protecting all memory on this machine. "+
			"The writers are off. CPU is of the whole process, from its first connection (a destination: its first accept) to its end.", b.memoryMiB, b.channels)},
		Head: []string{"way, memory", "total ms", "GB/s", "of bare", "source CPU s/GiB", "destination CPU s/GiB", "both", "of bare", "destination's faults"},
	}
	speed := func(f figures) float64 { return float64(b.memoryMiB) * (1 << 20) / 1e9 / f.total.Seconds() }
	bars := chart.Bars{Title: "Throughput beside a bare copy", Unit: "GB/s"}
	for i, c := range cells {
		kind, way := i/len(limitWays), i%len(limitWays)
		runs, bare := all[i], all[i-way]
		gib := func(of func(figures) float64) float64 { return probe.MedianOf(runs, per(b.memoryMiB, of)) }
		s.Rows = append(s.Rows, []string{c.name, f0(probe.MedianOf(runs, totalMS)), f2(probe.MedianOf(runs, speed)), f2(harness.Ratio(runs, bare, speed)),
			f3(gib(fromCPU)), f3(gib(toCPU)), f3(gib(bothCPU)), f2(harness.Ratio(runs, bare, bothCPU)), f0(probe.MedianOf(runs, toFaults))})
		if way == 0 {
			bars.Groups = append(bars.Groups, chart.Group{Name: kinds[kind].String()})
		} else {
			got := harness.Ratio(runs, bare, speed)
			s.Findings = append(s.Findings, fmt.Sprintf("With %v, %s reaches %.0f %% of the bare copy's throughput (aim: 85 %%, %s).",
				kinds[kind], limitWays[way].name, 100*got, harness.Verdict(got >= 0.85)))
		}
		g := &bars.Groups[kind]
		g.Bars = append(g.Bars, chart.Bar{Name: limitWays[way].name, Value: probe.MedianOf(runs, speed)})
	}
	s.Charts = []harness.NamedChart{{File: "live-limit.svg", Chart: bars}}
	return s, nil
}
