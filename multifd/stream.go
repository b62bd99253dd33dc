package multifd

import (
	"fmt"
	"io"
)

// zlib and zstd share this code: one stream for a channel's whole life, flushed at each
// packet's end. They differ in the encoder and the decoder.

// streamSend encodes pages into a stream.
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

// streamReceive decodes pages from a stream.
type streamReceive struct {
	buf  payloadBuffer
	feed packetFeed
	// open makes the decoder when the first packet arrives, because a decoder may read
	// the stream's header at once. field is that header's name in errors.
	open  func(io.Reader) (io.Reader, error)
	field string
	r     io.Reader
	close func() // frees the decoder; may be nil
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
