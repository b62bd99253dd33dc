package multifd

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/hybrid"
)

// qplHardwareSend compresses on the device. A packet is begun when its batch
// comes and finished when the next one has been begun, so that the device's
// queue does not run dry while a packet is written.
type qplHardwareSend struct {
	perPageSend
	acc     *Accelerator
	hw      *hybrid.Channel
	begun   *hybrid.Packet // the next to finish
	written *hybrid.Packet // whose outputs are in the packet being written
	next    *hybrid.Packet
}

func newQPLHardwareSend(cfg ChannelConfig, hw *hybrid.Channel) *qplHardwareSend {
	return &qplHardwareSend{perPageSend: newPerPageSend(cfg.PageSize), acc: cfg.Accelerator, hw: hw}
}

func (*qplHardwareSend) TakesDeflated() bool { return true }
func (s *qplHardwareSend) Cleanup()          { s.acc.Cleanup(s.hw) }

// Begin starts on a batch of raw pages.
func (s *qplHardwareSend) Begin(b *guest.Batch) error {
	p, err := s.hw.Compress(b.Data)
	if err != nil {
		return err
	}
	if s.begun == nil {
		s.begun = p
	} else {
		s.next = p
	}
	return nil
}

// Prepare finishes the batch that was begun first, or passes a deflated one on.
// Begin and Written are for speed: a caller that does not see them gets the same
// packets, one after the other.
func (s *qplHardwareSend) Prepare(out *Outgoing) error {
	s.Written() // the packet before has been written
	s.begin(out)
	if out.Batch.Form == guest.Deflated {
		for i, data := range out.Batch.Data {
			s.add(out, i, data)
		}
		return nil
	}
	if s.begun == nil {
		if err := s.Begin(out.Batch); err != nil {
			return err
		}
	}
	if err := s.begun.Finish(background); err != nil {
		return err
	}
	for i, data := range s.begun.Outputs() {
		if data == nil { // it does not shrink
			data = out.Batch.Data[i]
		}
		s.add(out, i, data)
	}
	s.written, s.begun, s.next = s.begun, s.next, nil
	return nil
}

// Written gives the buffers of the packet that was written back.
func (s *qplHardwareSend) Written() {
	if s.written != nil {
		s.written.Release()
		s.written = nil
	}
}

// qplHardwareReceive inflates on the device. Where the lane's memory stays
// (guest memory) packets overlap: while the device inflates one, the next is
// read from the socket.
type qplHardwareReceive struct {
	acc      *Accelerator
	hw       *hybrid.Channel
	pageSize int
	bufs     [2]payloadBuffer // the device reads from them
	turn     int
	lengths  []uint32
	srcs     [][]byte
	dsts     [][]byte
	scratch  []byte // pages that are inflated only to see that they can be

	pending *hybrid.Packet
	doing   string // what pending is, for errors
}

func newQPLHardwareReceive(cfg ChannelConfig, hw *hybrid.Channel) (ReceiveState, error) {
	q := &qplHardwareReceive{acc: cfg.Accelerator, hw: hw, pageSize: cfg.PageSize, lengths: make([]uint32, 0, guest.PacketPages(cfg.PageSize))}
	for i := range q.bufs {
		b, err := hw.Buffer(maxPayload)
		if err != nil {
			q.Cleanup()
			return nil, err
		}
		q.bufs[i] = b
	}
	var err error
	if q.scratch, err = hw.Buffer(guest.PacketBytes); err != nil {
		q.Cleanup()
		return nil, err
	}
	return q, nil
}

func (q *qplHardwareReceive) Cleanup() { q.acc.Cleanup(q.hw) }

func (q *qplHardwareReceive) Receive(in *Incoming) error {
	payload, err := q.bufs[q.turn].read(in)
	if err != nil {
		return err
	}
	q.turn = 1 - q.turn
	p := in.Packet
	lengths, data, err := pageLengths(q.lengths[:0], payload, len(p.Normal), q.pageSize)
	if err != nil {
		return err
	}
	if lane, ok := in.Lane.(guest.DeflatedLane); ok && lane.KeepsDeflated() {
		if err := q.start(p, lengths, data, q.scratchPages(len(lengths))); err != nil {
			return err
		}
		if err := q.Flush(); err != nil {
			return err
		}
		return inField("keeping pages", lane.PutDeflated(p.Block, p.Normal, lengths, data))
	}
	pages, err := in.Lane.Pages(p.Block, p.Normal)
	if err != nil {
		return inField("placing pages", err)
	}
	if err := q.start(p, lengths, data, pages); err != nil {
		return err
	}
	if lane, ok := in.Lane.(guest.StableLane); !ok || !lane.Stable() {
		if err := q.Flush(); err != nil {
			return err
		}
	}
	return inField("keeping pages", in.Lane.Commit())
}

func (q *qplHardwareReceive) scratchPages(n int) [][]byte {
	q.dsts = q.dsts[:0]
	for i := range n {
		q.dsts = append(q.dsts, q.scratch[i*q.pageSize:(i+1)*q.pageSize])
	}
	return q.dsts
}

// start begins on a packet's pages and finishes the one before.
func (q *qplHardwareReceive) start(p *Packet, lengths []uint32, data []byte, pages [][]byte) error {
	q.srcs = q.srcs[:0]
	dsts := slices.Clone(pages)[:0]
	for i, length := range lengths {
		if int(length) == q.pageSize {
			copy(pages[i], data[:length])
		} else {
			q.srcs, dsts = append(q.srcs, data[:length]), append(dsts, pages[i])
		}
		data = data[length:]
	}
	before, doing := q.pending, q.doing
	q.pending, q.doing = nil, fmt.Sprintf("inflating packet %d (RAM block %q from %#x)", p.Num, p.Block.Name, p.Normal[0])
	if len(q.srcs) > 0 {
		packet, err := q.hw.Inflate(q.srcs, dsts)
		if err != nil {
			return inField(q.doing, err)
		}
		q.pending = packet
	}
	return q.finish(before, doing)
}

// Flush returns when all that was received is in place.
func (q *qplHardwareReceive) Flush() error {
	before := q.pending
	q.pending = nil
	return q.finish(before, q.doing)
}

func (q *qplHardwareReceive) finish(p *hybrid.Packet, doing string) error {
	if p == nil {
		return nil
	}
	err := p.Finish(background)
	p.Release()
	if err == nil {
		return nil
	}
	if errors.Is(err, iaa.ErrUndrained) || errors.Is(err, iaa.ErrUnavailable) || errors.Is(err, hybrid.ErrClosed) {
		return inField(doing, err)
	}
	return inField(doing, fmt.Errorf("%w: %w", ErrMalformed, err))
}
