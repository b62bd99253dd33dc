package multifd

import (
	"io"

	"github.com/klauspost/compress/zlib"
)

// Zlib carries pages as one zlib stream for the channel's whole life, flushed
// at each packet's end.
var Zlib Method = zlibMethod{}

type zlibMethod struct{}

func (zlibMethod) Name() string   { return "zlib" }
func (zlibMethod) Flag() Flags    { return FlagZlib }
func (zlibMethod) Levels() Levels { return Levels{Least: 1, Most: 9} }

func (zlibMethod) SetupSend(cfg ChannelConfig) (SendState, error) {
	level := cfg.Level
	if level == 0 {
		level = zlib.BestSpeed
	}
	s := &streamSend{out: vectorBuffer{newPayloadBuffer()[:0]}}
	w, err := zlib.NewWriterLevel(&s.out, level)
	if err != nil {
		return nil, err
	}
	s.w = w
	return s, nil
}

func (zlibMethod) SetupReceive(ChannelConfig) (ReceiveState, error) {
	open := func(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) }
	return &streamReceive{buf: newPayloadBuffer(), open: open, field: "zlib header"}, nil
}
