package multifd

import (
	"context"
	"fmt"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
)

// QPL carries each page as a raw deflate stream of its own: the work of Intel's
// In-Memory Analytics Accelerator, if ChannelConfig has one, and of software.
var QPL Method = qplMethod{}

type qplMethod struct{}

func (qplMethod) Name() string   { return "qpl" }
func (qplMethod) Flag() Flags    { return FlagQPL }
func (qplMethod) Levels() Levels { return Levels{Least: 1, Most: LevelDense} }

// LevelDense is the level of qpl and uadk that asks for smaller pages.
const LevelDense = 2

func deflateMode(level int) deflate.Mode {
	if level >= LevelDense {
		return deflate.Dense
	}
	return deflate.Fast
}

func (qplMethod) SetupSend(cfg ChannelConfig) (SendState, error) {
	hw, err := cfg.Accelerator.Channel(cfg)
	if err != nil {
		return nil, err
	}
	if hw != nil {
		return newQPLHardwareSend(cfg, hw), nil
	}
	return &qplSend{perPageSend: newPerPageSend(cfg.PageSize), enc: deflate.NewEncoder(deflateMode(cfg.Level))}, nil
}

// qplSend compresses in software.
type qplSend struct {
	perPageSend
	enc *deflate.Encoder
}

func (*qplSend) TakesDeflated() bool { return true }
func (s *qplSend) Cleanup()          { *s = qplSend{} }

func (s *qplSend) Prepare(out *Outgoing) error {
	s.begin(out)
	for i, page := range out.Batch.Data {
		if out.Batch.Form == guest.Raw {
			dst := s.output(i)
			if n := s.enc.Deflate(dst, page); n > 0 {
				page = dst[:n]
			}
		}
		s.add(out, i, page)
	}
	return nil
}

func (qplMethod) SetupReceive(cfg ChannelConfig) (ReceiveState, error) {
	hw, err := cfg.Accelerator.Channel(cfg)
	if err != nil {
		return nil, err
	}
	if hw != nil {
		return newQPLHardwareReceive(cfg, hw)
	}
	return &qplReceive{
		buf: newPayloadBuffer(), pageSize: cfg.PageSize, dec: deflate.NewDecoder(),
		lengths: make([]uint32, 0, guest.PacketPages(cfg.PageSize)), scratch: prefaulted(cfg.PageSize),
	}, nil
}

// qplReceive inflates in software.
type qplReceive struct {
	buf      payloadBuffer
	pageSize int
	dec      *deflate.Decoder
	lengths  []uint32
	scratch  []byte
}

func (q *qplReceive) Cleanup()     { *q = qplReceive{} }
func (q *qplReceive) Flush() error { return nil }

func (q *qplReceive) Receive(in *Incoming) error {
	payload, err := q.buf.read(in)
	if err != nil {
		return err
	}
	lengths, data, err := pageLengths(q.lengths[:0], payload, len(in.Packet.Normal), q.pageSize)
	if err != nil {
		return err
	}
	if lane, ok := in.Lane.(guest.DeflatedLane); ok && lane.KeepsDeflated() {
		return q.keep(in.Packet, lane, lengths, data)
	}
	pages, err := in.Lane.Pages(in.Packet.Block, in.Packet.Normal)
	if err != nil {
		return inField("placing pages", err)
	}
	for i, length := range lengths {
		if err := q.inflate(pages[i], data[:length]); err != nil {
			return pageError(in.Packet, i, err)
		}
		data = data[length:]
	}
	return inField("keeping pages", in.Lane.Commit())
}

// keep hands the pages on as they came, once each has been seen to inflate:
// later, when the source is gone, would be too late to find out.
func (q *qplReceive) keep(p *Packet, lane guest.DeflatedLane, lengths []uint32, data []byte) error {
	rest := data
	for i, length := range lengths {
		if int(length) < q.pageSize {
			if err := q.inflate(q.scratch, rest[:length]); err != nil {
				return pageError(p, i, err)
			}
		}
		rest = rest[length:]
	}
	return inField("keeping pages", lane.PutDeflated(p.Block, p.Normal, lengths, data))
}

func (q *qplReceive) inflate(page, data []byte) error {
	if len(data) == len(page) {
		copy(page, data)
		return nil
	}
	return q.dec.Inflate(page, data)
}

func pageError(p *Packet, i int, err error) error {
	return inField(fmt.Sprintf("page %d of %d, at %#x in RAM block %q", i+1, len(p.Normal), p.Normal[i], p.Block.Name),
		fmt.Errorf("%w: %w", ErrMalformed, err))
}

// background is the context of jobs on the device. They end by themselves:
// each has a deadline in the driver, and software does what it misses.
var background = context.Background()
