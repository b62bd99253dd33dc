package vmstate

import (
	"encoding/binary"
	"fmt"
	"io"
)

// input reads the main channel through a buffer and counts bytes. The first error is
// kept in err, so that a caller can read several fields and check once.
type input struct {
	r      io.Reader
	buf    []byte
	at     int // next byte of buf
	end    int
	offset uint64 // of the stream, after the last byte that was returned
	err    error
	// tee, if not nil, receives a copy of the bytes that are read.
	tee *[]byte
}

func newInput(r io.Reader) *input { return &input{r: r, buf: make([]byte, 64<<10)} }

// refill reads once into the empty buffer.
func (in *input) refill() error {
	n, err := in.r.Read(in.buf)
	in.at, in.end = 0, n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// next returns the next n bytes, at most the buffer's size, valid until the next call.
func (in *input) next(n int) []byte {
	if in.err != nil {
		return in.buf[:n] // arbitrary bytes: the caller checks err first
	}
	if in.end-in.at < n {
		copy(in.buf, in.buf[in.at:in.end])
		in.end -= in.at
		in.at = 0
		for in.end < n {
			m, err := in.r.Read(in.buf[in.end:])
			in.end += m
			if m == 0 {
				in.err = streamEnd(err)
				return in.buf[:n]
			}
		}
	}
	b := in.buf[in.at : in.at+n]
	in.at += n
	in.offset += uint64(n)
	if in.tee != nil {
		*in.tee = append(*in.tee, b...)
	}
	return b
}

func streamEnd(err error) error {
	if err == nil {
		return io.ErrNoProgress
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: the source closed the connection", ErrTruncated)
	}
	return err
}

func (in *input) byte() byte  { return in.next(1)[0] }
func (in *input) u16() uint16 { return binary.BigEndian.Uint16(in.next(2)) }
func (in *input) u32() uint32 { return binary.BigEndian.Uint32(in.next(4)) }
func (in *input) u64() uint64 { return binary.BigEndian.Uint64(in.next(8)) }

// name reads a name: a length byte and that many bytes.
func (in *input) name() string { return string(in.next(int(in.byte()))) }

// peek returns the next byte without consuming it.
func (in *input) peek() byte {
	if in.err == nil && in.at == in.end {
		if err := in.refill(); err != nil {
			in.err = streamEnd(err)
		}
	}
	if in.err != nil {
		return 0
	}
	return in.buf[in.at]
}

// fill reads len(p) bytes into p.
func (in *input) fill(p []byte) {
	for len(p) > 0 && in.err == nil {
		n := min(len(p), len(in.buf))
		copy(p, in.next(n))
		p = p[n:]
	}
}

// peekU64 returns the next u64 without consuming it.
func (in *input) peekU64() uint64 {
	tee := in.tee
	in.tee = nil
	v := in.u64()
	in.tee = tee
	if in.err == nil {
		in.at -= 8
		in.offset -= 8
	}
	return v
}
