package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"syscall"
)

const (
	mib         = 1 << 20
	pagesPerMiB = mib / pageSize

	// maxReports bounds the number of CORRUPT lines. The count lines have the number of
	// corrupt pages.
	maxReports = 20
)

// workload is the memory and its expected content. Pages below fill are only checked; the
// others are rewritten too.
type workload struct {
	mem     []byte   // pages one after the other
	seq     []uint64 // the last sequence number of each page
	fill    int      // in pages
	perTick float64  // pages to rewrite in a tick
	part    int      // percent of them of which only a part changes
	r       *rand.Rand

	pending   float64 // pages to rewrite, a fraction of one included
	next      int     // the next page to check in the round
	rounds    int
	rewritten uint64
	corrupt   int
}

// newWorkload maps memory and writes all of it once. The memory is not on Go's heap, so that
// only the workload accesses it.
func newWorkload(o options) (*workload, error) {
	fill, work := o.fillMiB*pagesPerMiB, o.workMiB*pagesPerMiB
	w := &workload{
		seq:     make([]uint64, fill+work),
		fill:    fill,
		perTick: float64(o.rateMiBps*pagesPerMiB) * tick.Seconds(),
		part:    o.part,
		r:       rand.New(rand.NewPCG(1, 2)),
	}
	if len(w.seq) == 0 {
		return w, nil
	}
	mem, err := syscall.Mmap(-1, 0, len(w.seq)*pageSize, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_PRIVATE|syscall.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map %d MiB: %w", o.fillMiB+o.workMiB, err)
	}
	w.mem = mem
	for i := range w.seq {
		writePage(w.page(i), uint64(i), 0)
	}
	return w, nil
}

func (w *workload) page(i int) []byte { return w.mem[i*pageSize:][:pageSize] }

// step does the work of one tick.
func (w *workload) step(out io.Writer) {
	if len(w.seq) > w.fill {
		// A late tick does not rewrite more pages: otherwise a machine that stood still
		// for long would only rewrite pages afterwards.
		for w.pending += w.perTick; w.pending >= 1; w.pending-- {
			w.rewrite(w.fill+w.r.IntN(len(w.seq)-w.fill), out)
		}
	}
	if len(w.seq) > 0 {
		for range checksPerTick {
			w.check(w.next, out)
			if w.next++; w.next == len(w.seq) {
				w.next = 0
				w.rounds++
			}
		}
	}
}

// rewrite checks a page and writes its next state.
func (w *workload) rewrite(i int, out io.Writer) {
	w.check(i, out)
	w.seq[i]++
	if w.r.IntN(100) < w.part {
		changePart(w.page(i), uint64(i), w.seq[i], w.r)
	} else {
		writePage(w.page(i), uint64(i), w.seq[i])
	}
	w.rewritten++
}

// check checks a page. If the page is corrupt, check reports it and rewrites it, so that it is
// reported once.
func (w *workload) check(i int, out io.Writer) {
	err := checkPage(w.page(i), uint64(i), w.seq[i])
	if err == nil {
		return
	}
	if w.corrupt++; w.corrupt <= maxReports {
		printLine(out, "CORRUPT %v", err)
	}
	writePage(w.page(i), uint64(i), w.seq[i])
}
