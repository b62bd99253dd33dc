package main

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/bench/chart"
	"github.com/vmferry/vmferry/bench/harness"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/machine"
	"github.com/vmferry/vmferry/internal/probe"
)

// growthRate is the rate of the writer in pages a second, in the parts that do not vary it.
const growthRate = 4000

// line is the configuration of one line of a chart.
type line struct {
	name, method string
	pages        guestmem.PageKind
	log          string
}

var (
	bothMethods = []line{{"none", "none", guestmem.TransparentHuge, ""}, {"qpl", "qpl", guestmem.TransparentHuge, ""}}
	growing     = append(bothMethods[:2:2],
		line{"none, small pages", "none", guestmem.SmallPages, ""}, line{"none, small pages, marks", "none", guestmem.SmallPages, machine.Marks})
)

// series is a line of cells over one value.
type series struct {
	name   string
	values []float64
	runs   [][]figures
}

// sweep measures each line at each value. set sets a value in a job.
func (b *bench) sweep(ctx context.Context, part string, lines []line, values []float64, set func(*harness.Job, float64)) ([]series, error) {
	var cells []cell
	for _, v := range values {
		for _, l := range lines {
			j := b.job()
			j.Method, j.Pages, j.Log, j.WorkMiB, j.Rate = l.method, l.pages, l.log, min(workMiB, b.memoryMiB/2), growthRate
			set(&j, v)
			cells = append(cells, vmferryCell(fmt.Sprintf("%s, %g", l.name, v), j))
		}
	}
	all, err := b.measure(ctx, part, cells)
	if err != nil {
		return nil, err
	}
	measured := make([]series, len(lines))
	for i, runs := range all {
		s := &measured[i%len(lines)]
		s.name, s.values, s.runs = lines[i%len(lines)].name, values, append(s.runs, runs)
	}
	return measured, nil
}

// table has a row for each cell; first names the value.
func table(first string, lines []series) (head []string, rows [][]string) {
	head = []string{first, "method", "total ms", "downtime ms", "of it the scan ms", "rounds", "MB sent", "given up"}
	for i, v := range lines[0].values {
		for _, l := range lines {
			row := []string{fmt.Sprintf("%g", v), l.name, "–", "–", "–", "–", "–", fmt.Sprintf("%d of %d", countDiverged(l.runs[i]), len(l.runs[i]))}
			if runs := converged(l.runs[i]); len(runs) > 0 {
				copy(row[2:], []string{f0(probe.MedianOf(runs, totalMS)), f1(probe.MedianOf(runs, downtimeMS)), f2(probe.MedianOf(runs, scanMS)), f0(probe.MedianOf(runs, rounds)), f0(probe.MedianOf(runs, megabytes))})
			}
			rows = append(rows, row)
		}
	}
	return head, rows
}

// plot draws a value of all lines. It omits runs that did not converge.
func plot(title, x, y string, logX bool, lines []series, of func(figures) float64) chart.Lines {
	c := chart.Lines{Title: title, X: x, Y: y, LogX: logX}
	for _, l := range lines {
		s := chart.Series{Name: l.name}
		for i, v := range l.values {
			if runs := converged(l.runs[i]); len(runs) > 0 {
				s.Points = append(s.Points, chart.Point{X: v, Y: probe.MedianOf(runs, of)})
			}
		}
		c.Series = append(c.Series, s)
	}
	return c
}

// growth varies the size of memory.
func (b *bench) growth(ctx context.Context) (harness.Section, error) {
	sizes, left := b.sizes()
	lines, err := b.sweep(ctx, "growth", growing, sizes, func(j *harness.Job, gib float64) {
		j.MemoryMiB = int(gib * 1024)
		j.DataMiB, j.WorkMiB = dataOf(j.MemoryMiB), min(workMiB, j.MemoryMiB/2)
	})
	if err != nil {
		return harness.Section{}, err
	}
	s := harness.Section{
		Title: "Growth with memory",
		Text: []string{fmt.Sprintf("%d pages a second are written in %d MiB, independent of the size of memory. Five eighths of memory are not zero. %d channels; the downtime allowed is %v. "+
			"The downtime is from the call of Pause to the destination's report that the machine runs; Commit and Start do nothing. "+
			"The scan is the last scan of the dirty log, while the machine is paused.", growthRate, workMiB, b.channels, harness.Downtime)},
	}
	if left != "" {
		s.Text = append(s.Text, left)
	}
	s.Head, s.Rows = table("memory GiB", lines)
	for _, l := range lines {
		s.Findings = append(s.Findings, l.growthFindings()...)
	}
	s.Charts = []harness.NamedChart{
		{File: "live-growth-downtime.svg", Chart: plot("Downtime by memory size", "memory, GiB", "ms", true, lines, downtimeMS)},
		{File: "live-growth-total.svg", Chart: plot("Total time by memory size", "memory, GiB", "ms", true, lines, totalMS)},
	}
	return s, nil
}

// growthFindings describes how the downtime grows with memory, and whether it is short.
func (s *series) growthFindings() (findings []string) {
	var points []chart.Point
	for i, v := range s.values {
		if runs := converged(s.runs[i]); len(runs) > 0 {
			points = append(points, chart.Point{X: v, Y: probe.MedianOf(runs, downtimeMS)})
			if v == 1 {
				down := probe.MedianOf(runs, downtimeMS)
				findings = append(findings, fmt.Sprintf("%s: %.1f ms of downtime at 1 GiB (aim: under 20 ms, %s).", s.name, down, harness.Verdict(down < 20)))
			}
		}
	}
	if len(points) < 2 {
		return findings
	}
	first, last := points[0], points[len(points)-1]
	return append(findings, fmt.Sprintf("%s: from %g to %g GiB the downtime goes from %.1f to %.1f ms; the line of least squares rises by %.2f ms a GiB (aim: 0).",
		s.name, first.X, last.X, first.Y, last.Y, slope(points)))
}

// slope returns the slope of the line of least squares.
func slope(points []chart.Point) float64 {
	var mx, my float64
	for _, p := range points {
		mx, my = mx+p.X/float64(len(points)), my+p.Y/float64(len(points))
	}
	var xy, xx float64
	for _, p := range points {
		xy, xx = xy+(p.X-mx)*(p.Y-my), xx+(p.X-mx)*(p.X-mx)
	}
	return xy / xx
}

// sizes returns the memory sizes in GiB that fit, and a paragraph about those that do not.
// Source and destination each need memory of that size. The destination does not touch its
// zero pages, but sizes does not count on that.
func (b *bench) sizes() (sizes []float64, left string) {
	free := freeGiB()
	for _, gib := range []float64{0.25, 0.5, 1, 2, 4, 8, 16, 32} {
		if gib*1024 > float64(b.largestMiB) {
			break
		}
		if 2*gib+1 > free {
			return sizes, fmt.Sprintf("**Sizes from %g GiB on are left out:** two processes of that size do not fit into the %.1f GiB that were free.", gib, free)
		}
		sizes = append(sizes, gib)
	}
	if len(sizes) == 0 {
		sizes = []float64{float64(b.largestMiB) / 1024}
	}
	return sizes, ""
}

// freeGiB returns the size of the free memory.
func freeGiB() float64 {
	var info unix.Sysinfo_t
	unix.Sysinfo(&info)
	return float64(info.Freeram) * float64(info.Unit) / (1 << 30)
}

// byChannels varies the number of channels.
func (b *bench) byChannels(ctx context.Context) (harness.Section, error) {
	lines, err := b.sweep(ctx, "channels", bothMethods, []float64{1, 2, 4, 8}, func(j *harness.Job, n float64) { j.Channels = int(n) })
	if err != nil {
		return harness.Section{}, err
	}
	s := harness.Section{Title: "Channels", Text: []string{fmt.Sprintf("%d MiB, %d pages a second in %d MiB.", b.memoryMiB, growthRate, min(workMiB, b.memoryMiB/2))}}
	s.Head, s.Rows = table("channels", lines)
	s.Charts = []harness.NamedChart{{File: "live-channels.svg", Chart: plot("Total time by channels", "channels", "ms", true, lines, totalMS)}}
	return s, nil
}

// byRate varies the rate of the writer, which writes to a quarter of memory.
func (b *bench) byRate(ctx context.Context) (harness.Section, error) {
	work := b.memoryMiB / 4
	lines, err := b.sweep(ctx, "rates", bothMethods, []float64{0, 1000, 4000, 16000, 64000}, func(j *harness.Job, rate float64) { j.Rate, j.WorkMiB = int(rate), work })
	if err != nil {
		return harness.Section{}, err
	}
	s := harness.Section{
		Title: "Dirty rate",
		Text: []string{fmt.Sprintf("%d MiB, of which %d MiB are written at random places, %d channels, no throttling. A migration that does not converge to %v is given up. "+
			"The writer is one goroutine, which shares the processors with the migration.", b.memoryMiB, work, b.channels, harness.Downtime)},
	}
	s.Head, s.Rows = table("pages/s", lines)
	for _, l := range lines {
		for i, v := range l.values {
			if n := countDiverged(l.runs[i]); n > 0 {
				s.Findings = append(s.Findings, fmt.Sprintf("%s does not converge at %g pages a second in %d of %d runs.", l.name, v, n, len(l.runs[i])))
			}
		}
	}
	s.Charts = []harness.NamedChart{
		{File: "live-rate-downtime.svg", Chart: plot("Downtime by dirty rate", "pages written a second", "ms", false, lines, downtimeMS)},
		{File: "live-rate-total.svg", Chart: plot("Total time by dirty rate", "pages written a second", "ms", false, lines, totalMS)},
	}
	return s, nil
}
