package multifd

import (
	"fmt"
	"io"

	"github.com/klauspost/compress/zlib"
)

// Zlib carries pages as one zlib stream for the channel's whole life, flushed
// at each packet's end.
var Zlib Method = zlibMethod{}

type zlibMethod struct{}

func (zlibMethod) Name() string { return "zlib" }
func (zlibMethod) Flag() Flags  { return FlagZlib }

func (zlibMethod) SetupSend(cfg ChannelConfig) (SendState, error) {
	level := cfg.Level
	if level == 0 {
		level = zlib.BestSpeed
	}
	s := new(zlibSend)
	s.out.b = payloadBuffer(newPayloadBuffer())[:0]
	w, err := zlib.NewWriterLevel(&s.out, level)
	if err != nil {
		return nil, err
	}
	s.w = w
	return s, nil
}

type zlibSend struct {
	w   *zlib.Writer
	out vectorBuffer
}

func (*zlibSend) TakesDeflated() bool { return false }
func (s *zlibSend) Cleanup()          { *s = zlibSend{} }

func (s *zlibSend) Prepare(out *Outgoing) error {
	s.out.b = s.out.b[:0]
	for _, page := range out.Batch.Data {
		if _, err := s.w.Write(page); err != nil {
			return err
		}
	}
	if err := s.w.Flush(); err != nil {
		return err
	}
	out.Payload = append(out.Payload, s.out.b)
	out.PayloadLen = len(s.out.b)
	return nil
}

func (zlibMethod) SetupReceive(ChannelConfig) (ReceiveState, error) {
	return &zlibReceive{buf: newPayloadBuffer()}, nil
}

type zlibReceive struct {
	buf  payloadBuffer
	feed packetFeed
	r    io.ReadCloser // made with the first packet: it reads the header at once
}

func (z *zlibReceive) Cleanup() { *z = zlibReceive{} }

func (z *zlibReceive) Receive(in *Incoming) error {
	payload, err := z.buf.read(in)
	if err != nil {
		return err
	}
	z.feed.next(payload)
	if z.r == nil {
		r, err := zlib.NewReader(&z.feed)
		if err != nil {
			return inField("zlib header", fmt.Errorf("%w: %w", ErrMalformed, err))
		}
		z.r = r
	}
	if err := receivePages(in, z.r); err != nil {
		return err
	}
	return z.feed.finish()
}
