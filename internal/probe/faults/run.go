package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"

	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/hugepages"
	"github.com/vmferry/vmferry/internal/probe"
)

const hugePage = hugepages.Size

// MinMemory is the least guest memory in bytes that can be measured.
const MinMemory = 2 << 20

// Options say how much to measure. The zero value is what the command uses.
type Options struct {
	// Memory is the guest's in bytes, a multiple of 4 KiB; 0 means 256 MiB.
	Memory uint64
	// Runs is how often each cell is measured; 0 means 5.
	Runs int
}

// Row is one cell and what it takes, or why that is not known.
type Row struct {
	Cell
	*Figures
	// Unavailable is why the memory of this cell cannot be had here. Then
	// there are no figures.
	Unavailable string `json:"unavailable,omitempty"`
}

// BufferRow is one source of buffers and what it takes.
type BufferRow struct {
	BufferCell
	*BufferFigures
}

// Report is what Run found: medians over the runs.
type Report struct {
	Options
	Rows    []Row
	Buffers []BufferRow
	NotRead []NotRead
}

// noZeroPage is for kernels on which memory of kind None does not show what
// scanning zero pages costs elsewhere.
var noZeroPage = NotRead{"zero_page_copies", "this kernel shares no zero page: reading a fresh page takes memory at once, and the later write of it is no second fault." +
	" See memory " + string(PrivateFile) + " for a read and a copy"}

// Run measures every cell, several times, in turn. It takes huge pages from the
// system's pool, which it makes larger for the time if it may (root may).
//
// A cell whose memory cannot be had is reported as such. Run returns early with
// ctx's error, and with an error if memory does not hold what was put there.
func Run(ctx context.Context, opts Options) (*Report, error) {
	if opts.Memory == 0 {
		opts.Memory = 256 << 20
	}
	if opts.Memory < MinMemory {
		return nil, fmt.Errorf("faults: %d bytes of memory are too few (want %d or more)", opts.Memory, MinMemory)
	}
	if opts.Runs <= 0 {
		opts.Runs = 5
	}
	b, err := newBench(opts.Memory)
	if err != nil {
		return nil, err
	}
	// Faults and translations are counted by thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.tlb = newTLB()
	defer b.tlb.close()
	if shared, err := sharesZeroPage(); err != nil {
		return nil, err
	} else if !shared {
		b.tlb.not = append(b.tlb.not, noZeroPage)
	}

	s := &series{bench: b, channel: newChannel(b.pages), cells: Cells(), buffers: BufferCells()}
	s.unavailable = make([]error, len(s.cells))
	s.figures = make([][]Figures, len(s.cells))
	s.bufferFigures = make([][]BufferFigures, len(s.buffers))
	giveBack, err := hugepages.Reserve(int((opts.Memory + hugePage - 1) / hugePage))
	if err == nil {
		defer giveBack()
	} else {
		s.withoutHugePages(err)
	}
	for run := range opts.Runs {
		if err := s.run(ctx, run); err != nil {
			return nil, err
		}
	}
	report := &Report{Options: opts, NotRead: b.tlb.not}
	s.report(report)
	return report, nil
}

// series is the runs so far, by cell.
type series struct {
	*bench
	channel       *channel
	cells         []Cell
	unavailable   []error
	figures       [][]Figures
	buffers       []BufferCell
	bufferFigures [][]BufferFigures
}

func (s *series) withoutHugePages(why error) {
	for i, c := range s.cells {
		if c.Memory == HugeTLB {
			s.unavailable[i] = fmt.Errorf("%w (root can set them aside)", why)
		}
	}
}

// run measures all cells once. Each run has an order of its own, so that none
// always comes after the same one.
func (s *series) run(ctx context.Context, run int) error {
	if run == 0 {
		if err := s.warmUp(); err != nil {
			return err
		}
	}
	order := rand.New(rand.NewPCG(1, uint64(run)))
	for _, i := range order.Perm(len(s.cells)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if s.unavailable[i] != nil {
			continue
		}
		runtime.GC()
		f, err := s.measure(s.cells[i])
		switch {
		case errors.Is(err, guestmem.ErrNoHugePages), errors.Is(err, guestmem.ErrNoMemory):
			s.unavailable[i] = err
		case err != nil:
			return fmt.Errorf("memory %s, %s, %s: %w", s.cells[i].Memory, s.cells[i].Policy, s.cells[i].Path, err)
		default:
			s.figures[i] = append(s.figures[i], f)
		}
	}
	for _, i := range order.Perm(len(s.buffers)) {
		f, err := s.channel.measureBuffers(s.buffers[i])
		if err != nil {
			return fmt.Errorf("%s, buffers by %s: %w", s.buffers[i].Direction, s.buffers[i].Buffers, err)
		}
		s.bufferFigures[i] = append(s.bufferFigures[i], f)
	}
	return nil
}

// warmUp does once what is not counted: the codec's tables and the stack fault,
// too, the first time.
func (s *series) warmUp() error {
	if _, err := s.measure(Cell{None, ReceivedBitmap, Bounce}); err != nil {
		return err
	}
	for _, d := range []Direction{Send, Receive} {
		if _, err := s.channel.measureBuffers(BufferCell{d, Prefaulted}); err != nil {
			return err
		}
	}
	return nil
}

func (s *series) report(r *Report) {
	for i, c := range s.cells {
		row := Row{Cell: c}
		if err := s.unavailable[i]; err != nil {
			row.Unavailable = err.Error()
		} else {
			row.Figures = probe.Medians(s.figures[i])
		}
		r.Rows = append(r.Rows, row)
	}
	for i, c := range s.buffers {
		r.Buffers = append(r.Buffers, BufferRow{c, probe.Medians(s.bufferFigures[i])})
	}
}
