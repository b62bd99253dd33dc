package multifd

import (
	"encoding/binary"
	"fmt"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/pagecodec"
)

// qpl and uadk frame their payload alike: normal_pages u32 lengths, then the data of
// the pages end to end. A length of exactly the page size means that the page is not
// compressed.

// pageLengths reads the lengths at the head of a payload of n pages, checks their sum,
// and returns the data that follows.
func pageLengths(lengths []uint32, payload []byte, n, pageSize int) ([]uint32, []byte, error) {
	if len(payload) < 4*n {
		return nil, nil, malformed("next_packet_size", "%d bytes do not hold the lengths of %d pages", len(payload), n)
	}
	data := payload[4*n:]
	var sum uint64
	for i := range n {
		length := binary.BigEndian.Uint32(payload[4*i:])
		if length == 0 || length > uint32(pageSize) {
			return nil, nil, malformed(fmt.Sprintf("length[%d]", i), "%d (want 1 to the page size %d)", length, pageSize)
		}
		lengths = append(lengths, length)
		sum += uint64(length)
	}
	if sum != uint64(len(data)) {
		return nil, nil, malformed("next_packet_size", "the lengths of %d pages add up to %d bytes, but %d bytes follow", n, sum, len(data))
	}
	return lengths, data, nil
}

// malformedPage is the error of page i of a packet with the pages at the offsets of a
// block.
func malformedPage(prefix, block string, offsets []uint64, i int, err error) error {
	return inField(fmt.Sprintf("%spage %d of %d, at %#x in RAM block %q", prefix, i+1, len(offsets), offsets[i], block),
		fmt.Errorf("%w: %w", ErrMalformed, err))
}

// perPageSend makes packets of pages that are compressed one by one.
type perPageSend struct {
	lengths []byte
	arena   []byte // room for the output of every page of a packet
	size    int
}

func newPerPageSend(pageSize int) perPageSend {
	return perPageSend{
		lengths: make([]byte, 0, 4*guest.PacketPages(pageSize)),
		arena:   pagecodec.Prefaulted(guest.PacketBytes), size: pageSize,
	}
}

// output returns the room for the compressed page i: one byte less than a page, because
// a page that does not shrink is sent uncompressed.
func (s *perPageSend) output(i int) []byte {
	return s.arena[i*s.size : (i+1)*s.size-1]
}

func (s *perPageSend) begin(out *Outgoing) {
	n := len(out.Batch.Normal)
	s.lengths = s.lengths[:4*n]
	out.Payload = append(out.Payload, s.lengths)
	out.PayloadLen = 4 * n
}

// add appends data to the payload as page i, without a copy.
func (s *perPageSend) add(out *Outgoing, i int, data []byte) {
	binary.BigEndian.PutUint32(s.lengths[4*i:], uint32(len(data)))
	out.Payload = append(out.Payload, data)
	out.PayloadLen += len(data)
	if len(data) < s.size {
		out.Compressed++
	}
}
