package linkwire

import (
	"bytes"
	"encoding/binary"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
)

// headerCoder encodes and decodes the headers of a channel's packets. A header has 320
// bytes and 8 for each page that a packet can hold, and most of it follows from few
// fields. If the fields do not give exactly the header, the header is encoded as its own
// bytes. Both sides keep the header before, because a QEMU leaves parts of it in the
// next.
type headerCoder struct {
	before []byte // the header before; empty if there is none
	guess  []byte // what the fields give
}

// Offsets of a packet header's fields: see multifd.Packet.
const (
	flagsAt, allocAt, normalAt, sizeAt, numAt, zeroAt = 8, 12, 16, 20, 24, 32
	nameAt, offsetsAt                                 = 64, 320
)

// The form of a header.
const (
	headerBytes   = 0 // u16 length, bytes
	headerCleared = 1 // fields; all other bytes are zero
	headerStale   = 2 // fields; all other bytes are those of the header before
)

// sameName stands for the name's length if the name is that of the header before.
const sameName = 255

// maxHeaderLen is the length of the longest header.
var maxHeaderLen = multifd.HeaderLen(guest.MinPageSize)

// append appends the header h of a packet with pages of pageSize bytes.
func (c *headerCoder) append(b, h []byte, pageSize int) []byte {
	start := len(b)
	for _, form := range []byte{headerCleared, headerStale} {
		b = append(b[:start], form)
		b = c.appendFields(b, h, pageSize)
		r := reader{b: b[start+1:], kind: KindPacket}
		c.guess = c.fromFields(&r, c.guess, form, pageSize)
		if r.err == nil && bytes.Equal(c.guess, h) {
			c.before = append(c.before[:0], h...)
			return b
		}
	}
	b = binary.BigEndian.AppendUint16(append(b[:start], headerBytes), uint16(len(h)))
	c.before = append(c.before[:0], h...)
	return append(b, h...)
}

// appendFields appends the fields of a header, whether or not they suffice.
//
//	u32 flags   u32 alloc   u32 normal   u32 size   u64 num   u32 zero
//	u8 length of the name, or sameName   name   uvarint length of the header
//	runs of offsets: svarint pages from the end of the run before, uvarint pages of the run
func (c *headerCoder) appendFields(b, h []byte, pageSize int) []byte {
	be := binary.BigEndian
	b = append(b, h[flagsAt:zeroAt+4]...)
	name := h[nameAt:offsetsAt]
	n := bytes.IndexByte(name, 0)
	if n < 0 || n >= sameName || len(c.before) > 0 && bytes.Equal(name, c.before[nameAt:offsetsAt]) {
		b = append(b, sameName)
	} else {
		b = append(append(b, byte(n)), name[:n]...)
	}
	b = binary.AppendUvarint(b, uint64(len(h)))
	pages := uint64(be.Uint32(h[normalAt:])) + uint64(be.Uint32(h[zeroAt:]))
	pages = min(pages, uint64(len(h)-offsetsAt)/8)
	var end uint64 // of the run before, in pages
	for i := uint64(0); i < pages; {
		first := be.Uint64(h[offsetsAt+8*i:]) / uint64(pageSize)
		run := uint64(1)
		for i+run < pages && be.Uint64(h[offsetsAt+8*(i+run):])/uint64(pageSize) == first+run {
			run++
		}
		b = binary.AppendUvarint(binary.AppendVarint(b, int64(first-end)), run)
		end = first + run
		i += run
	}
	return b
}

// read reads a header that append wrote. The result is valid until the next call.
func (c *headerCoder) read(r *reader, pageSize int) []byte {
	switch form := r.u8(); form {
	case headerBytes:
		n := int(r.u16())
		if n < offsetsAt || n > maxHeaderLen {
			r.fail("a channel's header of %d bytes (want %d to %d)", n, offsetsAt, maxHeaderLen)
			return nil
		}
		c.guess = append(c.guess[:0], r.take(n)...)
	case headerCleared, headerStale:
		c.guess = c.fromFields(r, c.guess, form, pageSize)
	default:
		r.fail("form %d of a channel's header", form)
	}
	if r.err != nil {
		return nil
	}
	c.before = append(c.before[:0], c.guess...)
	return c.before
}

// fromFields makes the header of the fields in h, whose memory it reuses.
func (c *headerCoder) fromFields(r *reader, h []byte, form byte, pageSize int) []byte {
	be := binary.BigEndian
	fields := r.take(zeroAt + 4 - flagsAt)
	nameLen := r.u8()
	var name []byte
	if nameLen != sameName {
		name = r.take(int(nameLen))
	}
	n := r.uvarint()
	switch {
	case r.err != nil:
		return h
	case n < offsetsAt || n > uint64(maxHeaderLen):
		r.fail("a channel's header of %d bytes (want %d to %d)", n, offsetsAt, maxHeaderLen)
		return h
	case nameLen == sameName && len(c.before) == 0, form == headerStale && len(c.before) != int(n):
		r.fail("a channel's header refers to one before, which is missing or has another length")
		return h
	}
	h = sized(h, int(n))
	if form == headerStale {
		copy(h, c.before)
	} else {
		clear(h)
	}
	be.PutUint32(h, multifd.Magic)
	be.PutUint32(h[4:], multifd.Version)
	copy(h[flagsAt:], fields)
	if nameLen == sameName {
		copy(h[nameAt:offsetsAt], c.before[nameAt:offsetsAt])
	} else {
		clear(h[nameAt:offsetsAt])
		copy(h[nameAt:], name)
	}
	c.putOffsets(r, h, uint64(pageSize))
	return h
}

func (c *headerCoder) putOffsets(r *reader, h []byte, pageSize uint64) {
	be := binary.BigEndian
	pages := uint64(be.Uint32(h[normalAt:])) + uint64(be.Uint32(h[zeroAt:]))
	pages = min(pages, uint64(len(h)-offsetsAt)/8)
	var end uint64
	for i := uint64(0); i < pages && r.err == nil; {
		first := end + uint64(r.varint())
		run := r.uvarint()
		if run == 0 || run > pages-i {
			r.fail("a run of %d offsets, with %d missing", run, pages-i)
			return
		}
		for j := range run {
			be.PutUint64(h[offsetsAt+8*(i+j):], (first+j)*pageSize)
		}
		end = first + run
		i += run
	}
}
