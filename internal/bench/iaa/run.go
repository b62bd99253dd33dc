package iaabench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/hybrid"
	"github.com/vmferry/vmferry/iaa/iaamodel"
)

// stage is what a run works on: devices, and time.
type stage struct {
	machine *iaamodel.Machine // nil with hardware
	clock   *iaamodel.Clock   // nil with hardware
	dir     string
	dev     *iaa.Device // nil without devices
	start   time.Time
}

// measure runs a row and adds it to the report.
func (b *bench) measure(ctx context.Context, row Row) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	st, err := b.setUp(ctx, row)
	if err != nil {
		return fmt.Errorf("iaabench: %s, %s, %d devices: %w", row.Direction, row.Mode, row.Devices, err)
	}
	defer func() { err = errors.Join(err, st.tearDown()) }()

	workers := make([]*worker, b.cfg.Channels)
	for i := range workers {
		if workers[i], err = b.newWorker(st, row, i); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, workers[i].close(ctx)) }()
	}
	before, began := st.busy(), st.now()
	st.run(workers, ctx)
	row.Elapsed = st.now() - began
	for _, w := range workers {
		if w.err != nil {
			return w.err
		}
		if err := w.check(); err != nil {
			return err
		}
		s := w.ch.Stats()
		row.Pages += w.pages
		row.Hardware += float64(s.Hardware)
	}
	row.Hardware /= float64(row.Pages)
	row.Software = 1 - row.Hardware
	row.Rate = float64(row.Pages) * PageSize / row.Elapsed.Seconds()
	if st.dev != nil {
		s := st.dev.Stats()
		row.Faults = s.ReadFaults + s.WriteFaults
	}
	if st.machine != nil && row.Devices > 0 {
		engines := float64(row.Devices) * 8
		row.Busy = float64(st.busy()-before) / (engines * float64(row.Elapsed))
		row.Faults += int64(st.machine.Stats().Resolved)
	}
	b.report.Rows = append(b.report.Rows, row)
	if b.cfg.Progress != nil {
		b.cfg.Progress(row)
	}
	return nil
}

// setUp makes the devices that a row needs.
func (b *bench) setUp(ctx context.Context, row Row) (*stage, error) {
	st := &stage{start: time.Now()}
	if b.cfg.Hardware != nil {
		return st, b.openHardware(ctx, st, row)
	}
	st.clock = iaamodel.NewClock()
	cfg := iaamodel.Uniform(row.Devices, func(d *iaamodel.Device) {
		d.Queues[0].BlockOnFault = row.Memory == Blocked
	})
	cfg.Clock, cfg.Seed, cfg.Timing, cfg.Mapped = st.clock, b.cfg.Seed, b.cfg.Timing, true
	var err error
	if st.dir, err = os.MkdirTemp("", "vmferry-iaa"); err != nil {
		return nil, err
	}
	if st.machine, err = iaamodel.New(st.dir, cfg); err != nil {
		return nil, errors.Join(err, os.RemoveAll(st.dir))
	}
	if row.Devices > 0 {
		st.dev, err = iaa.Open(ctx, st.machine.Options())
	}
	return st, err
}

// openHardware opens the first row.Devices devices of the machine.
func (b *bench) openHardware(ctx context.Context, st *stage, row Row) error {
	if row.Devices == 0 {
		return nil
	}
	opts := *b.cfg.Hardware
	opts.NoBlockOnFault = row.Memory != Blocked
	seen := map[string]bool{}
	also := opts.Filter
	opts.Filter = func(q iaa.QueueInfo) bool {
		if also != nil && !also(q) || !seen[q.Device] && len(seen) == row.Devices {
			return false
		}
		seen[q.Device] = true
		return true
	}
	var err error
	if st.dev, err = iaa.Open(ctx, opts); err != nil {
		return err
	}
	if len(seen) < row.Devices {
		return errors.Join(fmt.Errorf("the machine has %d usable devices", len(seen)), st.dev.Close())
	}
	return nil
}

func (st *stage) tearDown() error {
	var errs []error
	if st.dev != nil {
		errs = append(errs, st.dev.Close())
	}
	if st.machine != nil {
		errs = append(errs, st.machine.Close(), os.RemoveAll(st.dir))
		for _, v := range st.machine.Violations() {
			errs = append(errs, errors.New(v))
		}
	}
	return errors.Join(errs...)
}

func (st *stage) now() time.Duration {
	if st.clock != nil {
		return st.clock.Now()
	}
	return time.Since(st.start)
}

func (st *stage) busy() time.Duration {
	if st.machine == nil {
		return 0
	}
	return st.machine.Stats().Busy
}

// run lets all workers carry their packets.
func (st *stage) run(workers []*worker, ctx context.Context) {
	if st.clock != nil {
		for _, w := range workers {
			st.clock.Go(func() { w.err = w.carry(ctx) })
		}
		st.clock.Run()
		return
	}
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(func() { w.err = w.carry(ctx) })
	}
	wg.Wait()
}

// worker is a channel and what it carries.
type worker struct {
	ch         *hybrid.Channel
	row        Row
	memory     []*iaa.Memory
	srcs, dsts [][]byte // pages or streams of some packets, carried over and over
	want       [][]byte // what they inflate to
	packets    int
	pages      int // in all packets
	err        error
}

func (b *bench) newWorker(st *stage, row Row, index int) (*worker, error) {
	w := &worker{row: row, packets: b.cfg.Packets}
	if row.Memory != Present {
		w.packets = min(w.packets, distinctPackets)
	}
	w.pages = w.packets * PacketPages
	codec := b.cfg.Codec()
	if st.clock != nil {
		codec = &charged{codec, st.clock, b.report.CPUCompress, b.report.CPUInflate}
	}
	cfg := hybrid.Config{
		Pages: PacketPages, PageSize: PageSize, Codec: codec, Huffman: b.cfg.Huffman, Bounce: row.Memory == Bounced,
	}
	if row.Mode == Hybrid {
		cfg.CPU = b.cfg.CPU
	}
	if row.Memory == Absent && row.Direction == Compress {
		cfg.Prefault = iaa.PrefaultNone
	}
	var err error
	if w.ch, err = hybrid.NewChannel(st.dev, cfg); err != nil {
		return nil, err
	}
	if row.Direction == Compress {
		err = w.fillPages(st, b.cfg.Pages, index)
	} else {
		err = w.fillStreams(st, b, index)
	}
	if err != nil {
		return nil, errors.Join(err, w.close(context.Background()))
	}
	return w, nil
}

// distinctPackets is how many packets a worker has memory for.
const distinctPackets = 16

// distinct is the number of pages that a worker has memory for.
func (w *worker) distinct() int { return min(w.packets, distinctPackets) * PacketPages }

// room returns memory for n pages that devices reach, or of the heap without any.
func (w *worker) room(st *stage, n int, p iaa.Prefault) ([]byte, error) {
	if st.dev == nil {
		return make([]byte, n*PageSize), nil
	}
	m, err := st.dev.NewMemory(n*PageSize, p)
	if err != nil {
		return nil, err
	}
	w.memory = append(w.memory, m)
	return m.Bytes(), nil
}

func (w *worker) fillPages(st *stage, pages [][]byte, index int) error {
	mem, err := w.room(st, w.distinct(), iaa.PrefaultPopulate)
	if err != nil {
		return err
	}
	w.srcs = split(mem)
	for i, p := range w.srcs {
		copy(p, pages[(i+index*37)%len(pages)])
	}
	return nil
}

func (w *worker) fillStreams(st *stage, b *bench, index int) error {
	in, err := w.room(st, w.distinct(), iaa.PrefaultPopulate)
	if err != nil {
		return err
	}
	policy := iaa.PrefaultPopulate
	if w.row.Memory != Present {
		policy = iaa.PrefaultNone
	}
	out, err := w.room(st, w.distinct(), policy)
	if err != nil {
		return err
	}
	w.dsts = split(out)
	for i, buf := range split(in) {
		k := (i + index*37) % len(b.streams)
		w.srcs = append(w.srcs, buf[:copy(buf, b.streams[k])])
		w.want = append(w.want, b.plain[k])
	}
	return nil
}

// carry takes all packets through the channel, overlapped.
func (w *worker) carry(ctx context.Context) error {
	var before *hybrid.Packet
	finish := func() error {
		if before == nil {
			return nil
		}
		if err := before.Finish(ctx); err != nil {
			return err
		}
		before.Release()
		return nil
	}
	for k := range w.packets {
		var p *hybrid.Packet
		var err error
		i := k * PacketPages % len(w.srcs)
		if w.row.Direction == Compress {
			p, err = w.ch.Compress(w.srcs[i : i+PacketPages])
		} else {
			p, err = w.ch.Inflate(w.srcs[i:i+PacketPages], w.dsts[i:i+PacketPages])
		}
		if err == nil {
			err = finish()
		}
		if err != nil {
			return err
		}
		before = p
	}
	return finish()
}

// check compares what was inflated, outside the measured time.
func (w *worker) check() error {
	for i, want := range w.want {
		if string(w.dsts[i]) != string(want) {
			return fmt.Errorf("iaabench: page %d inflated to wrong bytes", i)
		}
	}
	return nil
}

func (w *worker) close(ctx context.Context) error {
	err := w.ch.Close(ctx)
	for _, m := range w.memory {
		err = errors.Join(err, m.Free())
	}
	return err
}
