package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/vmferry/vmferry/bench/harness"
)

// figures are the measurements of one migration.
type figures struct {
	total, downtime time.Duration
	scan            time.Duration // of the dirty log, while the machine was paused
	rounds          int
	bytes           uint64 // on the wire
	data            uint64 // uncompressed bytes of the pages that were sent as data
	from, to        harness.Usage
	// diverged says that the migration did not converge and was cancelled. There is no
	// downtime then.
	diverged bool
}

func (f *figures) cpu() time.Duration { return f.from.CPU + f.to.CPU }

// cell is one measurement.
type cell struct {
	name    string
	measure func(context.Context) (figures, error)
}

// measure measures all cells in turn, b.runs times. So a temporary load on the machine
// affects all cells.
func (b *bench) measure(ctx context.Context, part string, cells []cell) ([][]figures, error) {
	all := make([][]figures, len(cells))
	for run := range b.runs {
		for i, c := range cells {
			fmt.Fprintf(os.Stderr, "%s: run %d of %d: %s\n", part, run+1, b.runs, c.name)
			f, err := c.measure(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			all[i] = append(all[i], f)
		}
	}
	return all, nil
}

// vmferryCell is a cell with a source and a destination of vmferry.
func vmferryCell(name string, j harness.Job) cell {
	return cell{name, func(ctx context.Context) (figures, error) {
		from, to, err := harness.RunPair(ctx, j)
		f := figures{total: from.Total, from: from.Usage, to: to.Usage, diverged: from.Diverging}
		if err != nil || from.Outcome == nil {
			f.data = uint64(j.MemoryMiB) << 20
			return f, err
		}
		o := from.Outcome
		f.total, f.downtime, f.rounds, f.bytes = o.Total, o.Downtime, len(o.Rounds), o.Bytes
		f.data = (o.Raw + o.Compressed) * harness.PageSize
		if n := len(o.Rounds); n > 0 && o.Rounds[n-1].Last {
			f.scan = o.Rounds[n-1].Scan
		}
		return f, nil
	}}
}

// Values of figures, for medians.
func totalMS(f figures) float64    { return ms(f.total) }
func downtimeMS(f figures) float64 { return ms(f.downtime) }
func scanMS(f figures) float64     { return ms(f.scan) }
func rounds(f figures) float64     { return float64(f.rounds) }
func megabytes(f figures) float64  { return float64(f.bytes) / 1e6 }
func fromCPU(f figures) float64    { return f.from.CPU.Seconds() }
func toCPU(f figures) float64      { return f.to.CPU.Seconds() }
func bothCPU(f figures) float64    { return f.cpu().Seconds() }
func toFaults(f figures) float64   { return float64(f.to.Faults) }

// perData returns a value per GiB of pages that were sent as data.
func perData(of func(figures) float64) func(figures) float64 {
	return func(f figures) float64 { return of(f) / (float64(f.data) / (1 << 30)) }
}

// per returns a value per GiB of memory.
func per(memoryMiB int, of func(figures) float64) func(figures) float64 {
	return func(f figures) float64 { return of(f) / (float64(memoryMiB) / 1024) }
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// countDiverged counts the runs that did not converge.
func countDiverged(runs []figures) (n int) {
	for _, f := range runs {
		if f.diverged {
			n++
		}
	}
	return n
}

// converged returns the runs that converged.
func converged(runs []figures) (k []figures) {
	for _, f := range runs {
		if !f.diverged {
			k = append(k, f)
		}
	}
	return k
}
