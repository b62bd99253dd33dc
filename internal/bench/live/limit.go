package main

import (
	"context"
	"fmt"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/chart"
)

// limit compares none with the bare copy, with memory of which no page is zero.
func (b *bench) limit(ctx context.Context) (section, error) {
	preallocs := []guest.Prealloc{guest.PreallocNone, guest.PreallocPopulate}
	var cells []cell
	for _, p := range preallocs {
		j := b.job()
		j.DataMiB, j.Prealloc = j.MemoryMiB, p
		bare := j
		bare.Method = ""
		cells = append(cells, ferry(fmt.Sprintf("bare copy, prealloc %s", p), bare), ferry(fmt.Sprintf("vmferry none, prealloc %s", p), j))
	}
	all, err := b.measure(ctx, "limit", cells)
	if err != nil {
		return section{}, err
	}
	s := section{
		title: "The limit: none beside a bare copy",
		text: []string{fmt.Sprintf("%d MiB of which no page is zero, over %d connections, from the connecting to the last answer. "+
			"The bare copy writes 512 KiB at a time, the bytes of a packet of 128 pages, and reads them with readv into memory that is mapped "+
			"once the source has connected, as in the migration. It has no protocol, no dirty log, and does not look for zero pages. "+
			"The writers are off. CPU is of the whole process, from its connecting (a destination: accepting) to its end.", b.memoryMiB, b.channels)},
		head: []string{"way, prealloc of the destination", "total ms", "GB/s", "of bare", "source CPU s/GiB", "destination CPU s/GiB", "both", "of bare", "destination's faults"},
	}
	speed := func(f figures) float64 { return float64(b.memoryMiB) * (1 << 20) / 1e9 / f.total.Seconds() }
	bars := chart.Bars{Title: "Throughput beside a bare copy", Unit: "GB/s"}
	for i, c := range cells {
		runs, bare := all[i], all[i/2*2]
		gib := func(of func(figures) float64) float64 { return median(runs, per(b.memoryMiB, of)) }
		s.rows = append(s.rows, []string{c.name, f0(median(runs, totalMS)), f2(median(runs, speed)), f2(ratio(runs, bare, speed)),
			f3(gib(fromCPU)), f3(gib(toCPU)), f3(gib(bothCPU)), f2(ratio(runs, bare, bothCPU)), f0(median(runs, toFaults))})
		if i%2 == 0 {
			bars.Groups = append(bars.Groups, chart.Group{Name: fmt.Sprintf("prealloc %s", preallocs[i/2])})
		}
		g := &bars.Groups[i/2]
		g.Bars = append(g.Bars, chart.Bar{Name: []string{"bare copy", "vmferry none"}[i%2], Value: median(runs, speed)})
	}
	for i, p := range preallocs {
		got := ratio(all[2*i+1], all[2*i], speed)
		s.findings = append(s.findings, fmt.Sprintf("With prealloc %s, none reaches %.0f %% of the bare copy's throughput (aim: 85 %%, %s).", p, 100*got, verdict(got >= 0.85)))
	}
	s.charts = []namedChart{{"live-limit.svg", bars}}
	return s, nil
}

func verdict(ok bool) string {
	if ok {
		return "reached"
	}
	return "missed"
}
