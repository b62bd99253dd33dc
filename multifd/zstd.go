package multifd

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// Zstd carries pages as one zstd frame a channel, flushed at each packet's end
// and never ended.
var Zstd Method = zstdMethod{}

// maxZstdWindow is the largest window that a source may ask for: that of
// zstd's level 20, the highest that QEMU takes.
const maxZstdWindow = 32 << 20

type zstdMethod struct{}

func (zstdMethod) Name() string { return "zstd" }
func (zstdMethod) Flag() Flags  { return FlagZstd }

func (zstdMethod) SetupSend(cfg ChannelConfig) (SendState, error) {
	level := zstd.SpeedFastest
	if cfg.Level != 0 {
		level = zstd.EncoderLevelFromZstd(cfg.Level)
	}
	s := new(zstdSend)
	s.out.b = payloadBuffer(newPayloadBuffer())[:0]
	// One goroutine a channel is what runs already.
	w, err := zstd.NewWriter(&s.out, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(512<<10), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, err
	}
	s.w = w
	return s, nil
}

type zstdSend struct {
	w   *zstd.Encoder
	out vectorBuffer
}

func (*zstdSend) TakesDeflated() bool { return false }

func (s *zstdSend) Cleanup() {
	s.w.Reset(nil) // the frame is left open, as the field does
	*s = zstdSend{}
}

func (s *zstdSend) Prepare(out *Outgoing) error {
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

func (zstdMethod) SetupReceive(ChannelConfig) (ReceiveState, error) {
	return &zstdReceive{buf: newPayloadBuffer()}, nil
}

type zstdReceive struct {
	buf  payloadBuffer
	feed packetFeed
	r    *zstd.Decoder
}

func (z *zstdReceive) Cleanup() {
	if z.r != nil {
		z.r.Close()
	}
	*z = zstdReceive{}
}

func (z *zstdReceive) Receive(in *Incoming) error {
	payload, err := z.buf.read(in)
	if err != nil {
		return err
	}
	z.feed.next(payload)
	if z.r == nil {
		r, err := zstd.NewReader(&z.feed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return inField("zstd frame", fmt.Errorf("%w: %w", ErrMalformed, err))
		}
		z.r = r
	}
	if err := receivePages(in, z.r); err != nil {
		return err
	}
	return z.feed.finish()
}
