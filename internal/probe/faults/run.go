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
	// Memory is the size of guest memory in bytes, a multiple of 4 KiB; 0 means
	// 256 MiB.
	Memory uint64
	// Runs is the number of measurements of each cell; 0 means 5.
	Runs int
}

// Row is a cell with its figures.
type Row struct {
	Cell
	*Figures
	// Unavailable is the reason why the memory of this cell is not available here.
	// Figures is then nil.
	Unavailable string `json:"unavailable,omitempty"`
}

// BufferRow is a buffer cell with its figures.
type BufferRow struct {
	BufferCell
	*BufferFigures
}

// Report is the result of Run: the medians of all runs.
type Report struct {
	Options
	Rows    []Row
	Buffers []BufferRow
	NotRead []NotRead
}

// noZeroPage is reported on kernels without a shared zero page. There, memory of kind None
// does not show the cost that scanning zero pages has on other kernels.
var noZeroPage = NotRead{"zero_page_copies", "this kernel shares no zero page: reading a fresh page takes memory at once, and the later write of it is no second fault." +
	" See memory " + string(PrivateFile) + " for a read and a copy"}

// Run measures all cells in turn, several times. It uses huge pages of the system's pool,
// and makes the pool larger during the run if it runs as root.
//
// The report names cells whose memory is not available. Run returns an error if ctx ends,
// and if memory does not hold the data that was written to it.
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
	// The kernel counts faults and TLB misses by thread.
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

// series has the figures of all runs so far, by cell.
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
			s.unavailable[i] = fmt.Errorf("%w (root can reserve them)", why)
		}
	}
}

// run measures all cells once. The order differs from run to run, so that no cell always
// follows the same cell.
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

// warmUp runs the code once without counting: the first access to the codec's tables and to
// the stack faults too.
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
