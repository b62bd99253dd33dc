package multifd

import (
	"io"

	"github.com/klauspost/compress/zstd"
)

// Zstd carries pages as one zstd frame for the channel's whole life, flushed at each
// packet's end and never ended.
var Zstd Method = zstdMethod{}

// maxZstdWindow is the largest window that a source may use: that of zstd's level 20,
// the highest that QEMU accepts.
const maxZstdWindow = 32 << 20

type zstdMethod struct{}

func (zstdMethod) Name() string   { return "zstd" }
func (zstdMethod) Flag() Flags    { return FlagZstd }
func (zstdMethod) Levels() Levels { return Levels{Least: 1, Most: 20} }

func (zstdMethod) SetupSend(cfg ChannelConfig) (SendState, error) {
	level := zstd.SpeedFastest
	if cfg.Level != 0 {
		level = zstd.EncoderLevelFromZstd(cfg.Level)
	}
	s := &zstdSend{streamSend: streamSend{out: vectorBuffer{newPayloadBuffer()[:0]}}}
	// The channel has its goroutine already.
	w, err := zstd.NewWriter(&s.out, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(512<<10), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, err
	}
	s.w, s.enc = w, w
	return s, nil
}

type zstdSend struct {
	streamSend
	enc *zstd.Encoder
}

func (s *zstdSend) Cleanup() {
	s.enc.Reset(nil) // the frame stays open, as in QEMU
	*s = zstdSend{}
}

func (zstdMethod) SetupReceive(ChannelConfig) (ReceiveState, error) {
	z := &streamReceive{buf: newPayloadBuffer(), field: "zstd frame"}
	z.open = func(r io.Reader) (io.Reader, error) {
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, err
		}
		z.close = d.Close
		return d, nil
	}
	return z, nil
}
