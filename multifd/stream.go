package multifd

import (
	"fmt"
	"io"
)

// zlib and zstd are alike: one stream for a channel's whole life, flushed at
// each packet's end. They differ in who encodes and decodes it.

// streamSend carries pages as a stream.
type streamSend struct {
	w interface {
		io.Writer
		Flush() error
	}
	out vectorBuffer
}

func (*streamSend) TakesDeflated() bool { return false }
func (s *streamSend) Cleanup()          { *s = streamSend{} }

func (s *streamSend) Prepare(out *Outgoing) error {
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
	out.PayloadLen, out.Compressed = len(s.out.b), len(out.Batch.Data)
	return nil
}

// streamReceive takes pages from a stream.
type streamReceive struct {
	buf  payloadBuffer
	feed packetFeed
	// open makes the decoder with the first packet, because it may read the
	// stream's header at once; field is what that is called in errors.
	open  func(io.Reader) (io.Reader, error)
	field string
	r     io.Reader
	close func() // what the decoder wants at its end; may be nil
}

func (z *streamReceive) Flush() error { return nil }

func (z *streamReceive) Cleanup() {
	if z.r != nil && z.close != nil {
		z.close()
	}
	*z = streamReceive{}
}

func (z *streamReceive) Receive(in *Incoming) error {
	payload, err := z.buf.read(in)
	if err != nil {
		return err
	}
	z.feed.next(payload)
	if z.r == nil {
		r, err := z.open(&z.feed)
		if err != nil {
			return inField(z.field, fmt.Errorf("%w: %w", ErrMalformed, err))
		}
		z.r = r
	}
	if err := receivePages(in, z.r); err != nil {
		return err
	}
	return z.feed.finish()
}
