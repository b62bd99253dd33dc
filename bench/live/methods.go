package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmferry/vmferry/bench/chart"
	"github.com/vmferry/vmferry/bench/harness"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/machine"
	"github.com/vmferry/vmferry/internal/probe"
	"github.com/vmferry/vmferry/internal/qemutest"
)

// The size and the rate of writes during a migration, for vmferry and for QEMU.
const (
	workMiB   = 16
	rateMiBps = 4
)

// way is a method, of vmferry or of QEMU.
type way struct {
	name   string
	method string
	level  int
	pages  guestmem.PageKind // of vmferry's memory
	log    string            // of vmferry's writers, as in machine.Config
	qemu   bool
}

// ways lists the ways of vmferry, and those of QEMU if qemu is true.
func ways(qemu bool) []way {
	w := []way{
		{name: "vmferry none", method: "none"}, {name: "vmferry qpl, fast", method: "qpl"},
		{name: "vmferry qpl, dense", method: "qpl", level: harness.LevelDense},
		{name: "vmferry zstd", method: "zstd"}, {name: "vmferry zlib", method: "zlib"},
	}
	for i := range w {
		w[i].pages = guestmem.TransparentHuge
	}
	for _, marked := range w {
		if marked.method != "qpl" { // QEMU has the others
			marked.name, marked.log = marked.name+", marks", machine.Marks
			w = append(w, marked)
		}
	}
	w = append(w, way{name: "vmferry none, small pages", method: "none", pages: guestmem.SmallPages})
	if qemu {
		w = append(w, way{name: "QEMU none", method: "none", qemu: true}, way{name: "QEMU zstd", method: "zstd", qemu: true}, way{name: "QEMU zlib", method: "zlib", qemu: true})
	}
	return w
}

// methods compares the methods of vmferry and QEMU. It measures processor time with paused
// machines, and downtime with running machines.
func (b *bench) methods(ctx context.Context) (harness.Section, error) {
	q, missing, err := b.startQEMU(ctx)
	if err != nil {
		return harness.Section{}, err
	}
	if q != nil {
		defer q.close()
	}
	data := dataOf(b.memoryMiB)
	if q != nil {
		data = q.dataMiB
	}
	ways := ways(q != nil)
	var cells []cell
	for _, still := range []bool{true, false} {
		for _, w := range ways {
			cells = append(cells, b.cellOf(w, q, data, still))
		}
	}
	all, err := b.measure(ctx, "methods", cells)
	if err != nil {
		return harness.Section{}, err
	}
	s := harness.Section{Title: "The methods, and QEMU", Text: b.methodsText(data, missing)}
	b.stillTable(&s, ways, all[:len(ways)])
	s.More = append(s.More, b.runningTable(ways, all[len(ways):]))
	return s, nil
}

func (b *bench) methodsText(dataMiB int, missing string) []string {
	text := []string{
		fmt.Sprintf("%d MiB, of which %d MiB are not zero: text (half), pointers (a quarter) and noise. %d channels, loopback TCP. QEMU's guest has the same kinds of pages and about 60 MiB of Linux. "+
			"Memory consists of transparent huge pages where the kernel has them; QEMU also requests them. One row is of small pages. No destination preallocates memory. "+
			"vmferry learns the writes from the kernel, which write-protects all memory, or from marks that the writers set. QEMU's emulator, which runs its guest here, sets marks too.", b.memoryMiB, dataMiB, b.channels),
		"In the first table the writers are off and QEMU's guest is stopped (a stopped machine can be migrated), so CPU is of the migration alone. It is of both processes: " +
			"of vmferry by getrusage from its first connection to its end, of QEMU by the process's clock from the command to the end. Ratios are for each GiB of pages that were sent as data.",
	}
	if missing != "" {
		text = append(text, "**QEMU's rows are left out:** "+missing+".")
	}
	return text
}

// cellOf returns the cell of a way, with a paused or a running machine.
func (b *bench) cellOf(w way, q *qemu, dataMiB int, still bool) cell {
	name := w.name + ", running"
	if still {
		name = w.name + ", still"
	}
	if w.qemu {
		return cell{name, func(ctx context.Context) (figures, error) { return q.migrate(ctx, w.method, still) }}
	}
	j := b.job()
	j.Method, j.Level, j.Pages, j.Log, j.DataMiB = w.method, w.level, w.pages, w.log, dataMiB
	if !still {
		j.WorkMiB, j.Rate = min(workMiB, b.memoryMiB/2), rateMiBps<<20/harness.PageSize
	}
	return vmferryCell(name, j)
}

func (b *bench) stillTable(s *harness.Section, ways []way, all [][]figures) {
	s.Head = []string{"standing still", "total ms", "MB sent", "source CPU s/GiB", "destination CPU s/GiB", "both", "both, a GiB of data", "of QEMU's", "destination's faults"}
	bars := chart.Bars{Title: "CPU of a migration of a machine that stands still", Unit: "CPU seconds a GiB of pages with data"}
	for i, w := range ways {
		runs := all[i]
		gib := func(of func(figures) float64) string { return f3(probe.MedianOf(runs, per(b.memoryMiB, of))) }
		peer := ""
		if at := peerOf(ways, w); at >= 0 {
			got := harness.Ratio(runs, all[at], perData(bothCPU))
			peer = f2(got)
			s.Findings = append(s.Findings, fmt.Sprintf("%s takes %.2f of the CPU seconds that QEMU takes for a GiB of data (aim: fewer, %s).", w.name, got, harness.Verdict(got < 1)))
		}
		s.Rows = append(s.Rows, []string{w.name, f0(probe.MedianOf(runs, totalMS)), f0(probe.MedianOf(runs, megabytes)), gib(fromCPU), gib(toCPU), gib(bothCPU),
			f3(probe.MedianOf(runs, perData(bothCPU))), peer, f0(probe.MedianOf(runs, toFaults))})
		bars.Groups = append(bars.Groups, chart.Group{Name: w.name, Bars: []chart.Bar{
			{Name: "source", Value: probe.MedianOf(runs, perData(fromCPU))}, {Name: "destination", Value: probe.MedianOf(runs, perData(toCPU))},
		}})
	}
	s.Charts = append(s.Charts, harness.NamedChart{File: "live-cpu.svg", Chart: bars})
}

// peerOf returns the index of QEMU's way with the same method, -1 if there is none.
func peerOf(ways []way, w way) int {
	for i, p := range ways {
		if p.qemu && !w.qemu && p.method == w.method {
			return i
		}
	}
	return -1
}

func (b *bench) runningTable(ways []way, all [][]figures) harness.Section {
	s := harness.Section{
		Text: []string{fmt.Sprintf("In the second table %d pages a second are written in %d MiB. In QEMU the guest writes them; it is emulated and occupies a core. "+
			"The downtime allowed is %v. QEMU's figures are those of its query-migrate, in whole milliseconds.", rateMiBps<<20/harness.PageSize, workMiB, harness.Downtime)},
		Head: []string{"running", "total ms", "downtime ms", "rounds", "MB sent", "given up"},
	}
	for i, w := range ways {
		runs := converged(all[i])
		row := []string{w.name, "–", "–", "–", "–", fmt.Sprintf("%d of %d", countDiverged(all[i]), len(all[i]))}
		if len(runs) > 0 {
			copy(row[1:], []string{f0(probe.MedianOf(runs, totalMS)), f1(probe.MedianOf(runs, downtimeMS)), f0(probe.MedianOf(runs, rounds)), f0(probe.MedianOf(runs, megabytes))})
		}
		s.Rows = append(s.Rows, row)
	}
	return s
}

// startQEMU starts the guest that is migrated, or says why there is none.
func (b *bench) startQEMU(ctx context.Context) (q *qemu, missing string, err error) {
	if !b.qemu {
		return nil, "it was not asked for", nil
	}
	if b.memoryMiB < 256 {
		return nil, "its guest needs 256 MiB", nil
	}
	q, err = newQEMU(ctx, b)
	if errors.Is(err, qemutest.ErrNotSetUp) {
		return nil, "it is not installed here (scripts/setup demo)", nil
	}
	return q, "", err
}
