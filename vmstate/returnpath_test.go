package vmstate_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/vmferry/vmferry/vmstate"
)

func TestAwaitShut_ReturnsTheResult(t *testing.T) {
	pong := func() *stream { return new(stream).u16(2).u16(4).u32(1) }
	shut := func(s *stream, code uint32) *stream { return s.u16(1).u16(4).u32(code) }
	for _, tt := range []struct {
		name   string
		stream *stream
		want   error
	}{
		{"it went well", shut(pong(), 0), nil},
		{"without a PONG", shut(new(stream), 0), nil},
		{"with SWITCHOVER_ACK", shut(pong().u16(7).u16(0), 0), nil},
		{"it failed", shut(pong(), 1), vmstate.ErrRefused},
		{"it failed with another code", shut(pong(), 0xffffffff), vmstate.ErrRefused},
		{"closed at once", new(stream), vmstate.ErrTruncated},
		{"closed after a PONG", pong(), vmstate.ErrTruncated},
		{"closed in a header", pong().u16(1), vmstate.ErrTruncated},
		{"closed in SHUT", pong().u16(1).u16(4).u16(0), vmstate.ErrTruncated},
		{"SHUT of 2 bytes", new(stream).u16(1).u16(2).u16(0), vmstate.ErrMalformed},
		{"a request for pages", new(stream).u16(4).u16(12).u64(0).u32(0), vmstate.ErrMalformed},
		{"an unknown message", new(stream).u16(99).u16(0), vmstate.ErrMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := bytes.NewReader(append(tt.stream.b, "rest"...)[:len(tt.stream.b)])
			if err := vmstate.AwaitShut(iotest.OneByteReader(r)); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestAwaitShut_ConnectionErrorIsNotTruncation(t *testing.T) {
	boom := errors.New("boom")
	for _, n := range []int{0, 2, 4, 6} {
		data := new(stream).u16(1).u16(4).u32(0).b[:n]
		err := vmstate.AwaitShut(io.MultiReader(bytes.NewReader(data), iotest.ErrReader(boom)))
		if !errors.Is(err, boom) || errors.Is(err, vmstate.ErrTruncated) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}
