package multifd

import (
	"errors"
	"fmt"
	"io"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/pagecodec"
)

// payloadBuffer holds one packet's payload. It has the size of the largest payload that
// is accepted. It is prefaulted, so that no page fault delays a packet.
type payloadBuffer []byte

// maxPayload is a full packet of pages that grew by an eighth, which is more than the
// worst case of every codec.
const maxPayload = guest.PacketBytes + guest.PacketBytes/8 + 4096

func newPayloadBuffer() payloadBuffer { return pagecodec.Prefaulted(maxPayload) }

// read reads the packet's payload into the buffer.
func (b payloadBuffer) read(in *Incoming) ([]byte, error) {
	n := in.Packet.PayloadLen
	if n == 0 || uint64(n) > uint64(len(b)) {
		return nil, malformed("next_packet_size", "%d bytes for %d pages (want 1 to %d)", n, len(in.Packet.Normal), len(b))
	}
	return b[:n], inField("payload", in.Payload.ReadFull(b[:n]))
}

var errPacketEmpty = errors.New("the packet's data ends before its pages are complete")

// packetFeed is what a stream decoder reads from: the payloads of a channel end to end.
// Reading beyond the current packet is an error, because a packet carries whole pages.
type packetFeed struct {
	rest []byte // of the packet before: the end of a flush
	data []byte
	kept [maxRest]byte
}

// maxRest is how much of a payload a decoder may leave unread until the next packet:
// the marks that end a flushed deflate or zstd block.
const maxRest = 64

// next appends the payload to what was left of the last one.
func (f *packetFeed) next(payload []byte) { f.data = payload }

// finish is called when the packet's pages are complete. It copies what is left,
// because the payload's buffer is reused.
func (f *packetFeed) finish() error {
	if left := len(f.rest) + len(f.data); left > maxRest {
		return malformed("payload", "%d bytes are left after the packet's pages", left)
	}
	n := copy(f.kept[:], f.rest) // may overlap: copy is a move
	n += copy(f.kept[n:], f.data)
	f.rest, f.data = f.kept[:n], nil
	return nil
}

func (f *packetFeed) Read(p []byte) (int, error) {
	from := &f.rest
	if len(f.rest) == 0 {
		from = &f.data
	}
	if len(*from) == 0 {
		return 0, errPacketEmpty
	}
	n := copy(p, *from)
	*from = (*from)[n:]
	return n, nil
}

func (f *packetFeed) ReadByte() (byte, error) {
	from := &f.rest
	if len(f.rest) == 0 {
		from = &f.data
	}
	if len(*from) == 0 {
		return 0, errPacketEmpty
	}
	c := (*from)[0]
	*from = (*from)[1:]
	return c, nil
}

// receivePages fills the packet's pages from the stream r.
func receivePages(in *Incoming, r io.Reader) error {
	pages, err := in.Lane.Pages(in.Packet.Block, in.Packet.Normal)
	if err != nil {
		return inField("placing pages", err)
	}
	for i, page := range pages {
		if _, err := io.ReadFull(r, page); err != nil {
			return inField(fmt.Sprintf("page %d of %d", i+1, len(pages)), fmt.Errorf("%w: %w", ErrMalformed, err))
		}
	}
	return inField("keeping pages", in.Lane.Commit())
}

// vectorBuffer is an io.Writer into the channel's buffer.
type vectorBuffer struct{ b []byte }

func (v *vectorBuffer) Write(p []byte) (int, error) {
	v.b = append(v.b, p...)
	return len(p), nil
}
