package iaaprobe

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/hybrid"
)

// Measure measures a row with all its pages and adds it to the report.
func (b *Probe) Measure(ctx context.Context, row Row) error {
	row, err := b.pass(ctx, row, b.cfg.Packets*PacketPages)
	if err == nil {
		b.Rows = append(b.Rows, row)
	}
	return err
}

// pass measures a row with a number of pages in each channel. If ctx ends, the error is the
// cause of that alone.
func (b *Probe) pass(ctx context.Context, row Row, pages int) (_ Row, err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	if err := ctx.Err(); err != nil {
		return row, err
	}
	st, err := b.cfg.SetUp(ctx, row)
	if err != nil {
		return row, fmt.Errorf("iaaprobe: %s, %s, %d devices: %w", row.Direction, row.Mode, row.Devices, err)
	}
	defer func() { err = errors.Join(err, st.Close()) }()

	workers := make([]*worker, b.cfg.Channels)
	transfer := make([]func(), len(workers))
	for i := range workers {
		w, failed := b.newWorker(st, row, i, pages)
		if failed != nil {
			return row, failed
		}
		// Jobs in flight have to end, also if ctx has ended.
		defer func() { err = errors.Join(err, w.close(context.WithoutCancel(ctx))) }()
		workers[i], transfer[i] = w, func() { w.err = w.transfer(ctx) }
	}
	began := st.Now()
	st.Run(transfer...)
	row.Elapsed = st.Now() - began
	for _, w := range workers {
		if w.err != nil {
			return row, w.err
		}
		if err := w.check(); err != nil {
			return row, err
		}
		s := w.ch.Stats()
		row.Pages += w.pages
		row.Hardware += float64(s.Hardware)
	}
	row.Hardware /= float64(row.Pages)
	row.Software = 1 - row.Hardware
	row.Rate = float64(row.Pages) * PageSize / row.Elapsed.Seconds()
	if dev := st.Device(); dev != nil {
		s := dev.Stats()
		row.Faults = s.ReadFaults + s.WriteFaults
	}
	st.Complete(&row)
	return row, nil
}

// worker is a channel with its packets.
type worker struct {
	ch         *hybrid.Channel
	row        Row
	memory     []*iaa.Memory
	srcs, dsts [][]byte // pages or streams of the distinct packets
	want       [][]byte // the pages that the streams inflate to
	pages      int      // in all packets
	err        error
}

func (b *Probe) newWorker(st Stage, row Row, index, pages int) (*worker, error) {
	w := &worker{row: row, pages: pages}
	if row.Memory != Present {
		w.pages = min(w.pages, distinctPages)
	}
	cfg := hybrid.Config{
		Pages: PacketPages, PageSize: PageSize, Codec: st.Codec(b.cfg.Codec()), Huffman: b.cfg.Huffman, Bounce: row.Memory == Bounced,
	}
	if row.Mode == Hybrid {
		cfg.CPU = b.cfg.CPU
	}
	if row.Memory == Absent && row.Direction == Compress {
		cfg.Prefault = iaa.PrefaultNone
	}
	var err error
	if w.ch, err = hybrid.NewChannel(st.Device(), cfg); err != nil {
		return nil, err
	}
	if err := w.fill(st, b, 37*index); err != nil {
		return nil, errors.Join(err, w.close(context.Background()))
	}
	return w, nil
}

// distinctPages bounds the number of pages for which a worker has memory. A worker uses
// them repeatedly.
const distinctPages = 16 * PacketPages

// distinct returns the number of pages for which a worker has memory.
func (w *worker) distinct() int { return min(w.pages, distinctPages) }

// allocate returns memory for n pages that the devices can access; without devices, it
// returns memory of the heap.
func (w *worker) allocate(st Stage, n int, p iaa.Prefault) ([]byte, error) {
	if st.Device() == nil {
		return make([]byte, n*PageSize), nil
	}
	m, err := st.Device().NewMemory(n*PageSize, p)
	if err != nil {
		return nil, err
	}
	w.memory = append(w.memory, m)
	return m.Bytes(), nil
}

// fill fills the worker's memory with pages, from page first on, or with their streams.
func (w *worker) fill(st Stage, b *Probe, first int) error {
	in, err := w.allocate(st, w.distinct(), iaa.PrefaultPopulate)
	if err != nil {
		return err
	}
	content := b.pages
	if w.row.Direction == Inflate {
		content = b.streams
		policy := iaa.PrefaultPopulate
		if w.row.Memory != Present {
			policy = iaa.PrefaultNone
		}
		out, err := w.allocate(st, w.distinct(), policy)
		if err != nil {
			return err
		}
		w.dsts = Split(out)
	}
	for i, buf := range Split(in) {
		k := (i + first) % len(content)
		w.srcs = append(w.srcs, buf[:copy(buf, content[k])])
		if w.dsts != nil {
			w.want = append(w.want, b.plain[k])
		}
	}
	return nil
}

// transfer compresses or inflates all packets with the channel. Each packet begins before
// the packet before it is finished.
func (w *worker) transfer(ctx context.Context) error {
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
	for done := 0; done < w.pages; done += PacketPages {
		var p *hybrid.Packet
		var err error
		i := done % len(w.srcs)
		end := min(i+PacketPages, i+w.pages-done, len(w.srcs))
		if w.row.Direction == Compress {
			p, err = w.ch.Compress(w.srcs[i:end])
		} else {
			p, err = w.ch.Inflate(w.srcs[i:end], w.dsts[i:end])
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

// check compares the inflated pages with the originals, outside of the measured time.
func (w *worker) check() error {
	for i, want := range w.want {
		if string(w.dsts[i]) != string(want) {
			return fmt.Errorf("iaaprobe: page %d inflated to wrong bytes", i)
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

// Split splits memory into pages.
func Split(mem []byte) [][]byte {
	out := make([][]byte, len(mem)/PageSize)
	for i := range out {
		out[i] = mem[i*PageSize:][:PageSize:PageSize]
	}
	return out
}
