package iaaprobe

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/hybrid"
)

// Measure measures a row and adds it to the report.
func (b *Probe) Measure(ctx context.Context, row Row) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	st, err := b.cfg.SetUp(ctx, row)
	if err != nil {
		return fmt.Errorf("iaaprobe: %s, %s, %d devices: %w", row.Direction, row.Mode, row.Devices, err)
	}
	defer func() { err = errors.Join(err, st.Close()) }()

	workers := make([]*worker, b.cfg.Channels)
	transfer := make([]func(), len(workers))
	for i := range workers {
		w, failed := b.newWorker(st, row, i)
		if failed != nil {
			return failed
		}
		defer func() { err = errors.Join(err, w.close(ctx)) }()
		workers[i], transfer[i] = w, func() { w.err = w.transfer(ctx) }
	}
	began := st.Now()
	st.Run(transfer...)
	row.Elapsed = st.Now() - began
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
	if dev := st.Device(); dev != nil {
		s := dev.Stats()
		row.Faults = s.ReadFaults + s.WriteFaults
	}
	st.Complete(&row)
	b.Rows = append(b.Rows, row)
	return nil
}

// worker is a channel with its packets.
type worker struct {
	ch         *hybrid.Channel
	row        Row
	memory     []*iaa.Memory
	srcs, dsts [][]byte // pages or streams of the distinct packets
	want       [][]byte // the pages that the streams inflate to
	packets    int
	pages      int // in all packets
	err        error
}

func (b *Probe) newWorker(st Stage, row Row, index int) (*worker, error) {
	w := &worker{row: row, packets: b.cfg.Packets}
	if row.Memory != Present {
		w.packets = min(w.packets, distinctPackets)
	}
	w.pages = w.packets * PacketPages
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

// distinctPackets bounds the number of packets for which a worker has memory. A worker uses
// them repeatedly.
const distinctPackets = 16

// distinct returns the number of pages for which a worker has memory.
func (w *worker) distinct() int { return min(w.packets, distinctPackets) * PacketPages }

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
