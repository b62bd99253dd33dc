package multifd

import (
	"encoding/binary"
	"fmt"
	"io"
)

const (
	// Magic is the first word of a channel and of every packet.
	Magic = 0x11223344
	// Version is the only version of the wire.
	Version = 1
	// HandshakeLen is the length of a handshake in bytes.
	HandshakeLen = 64
	// MaxChannels is the largest number of channels of a migration: QEMU keeps the
	// count and the id in a byte.
	MaxChannels = 255
)

// Handshake is the content of a channel's first 64 bytes.
//
//	0  u32 magic   4 u32 version   8 u8[16] uuid   24 u8 id   25 zeros
type Handshake struct {
	// UUID is the machine's UUID, all zero if it has none.
	UUID [16]byte
	ID   uint8
}

// Append appends the handshake in its wire form.
func (h Handshake) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, Magic)
	b = binary.BigEndian.AppendUint32(b, Version)
	b = append(b, h.UUID[:]...)
	b = append(b, h.ID)
	return append(b, make([]byte, HandshakeLen-25)...)
}

// BeginsChannel reports whether b, the first bytes of a connection or a part of them, can
// begin a multifd channel: the magic and the version, as in the handshake and in every
// packet.
func BeginsChannel(b []byte) bool {
	var begin [8]byte
	binary.BigEndian.PutUint32(begin[0:], Magic)
	binary.BigEndian.PutUint32(begin[4:], Version)
	n := min(len(b), len(begin))
	return string(b[:n]) == string(begin[:n])
}

// ReadHandshake reads a handshake. The caller compares the UUID.
func ReadHandshake(r io.Reader) (Handshake, error) {
	var buf [HandshakeLen]byte
	if _, err := io.ReadFull(r, buf[:]); err != nil {
		return Handshake{}, &ChannelError{Channel: -1, Field: "first 64 bytes", Err: truncated(err)}
	}
	h := Handshake{ID: buf[24]}
	copy(h.UUID[:], buf[8:24])
	if magic := binary.BigEndian.Uint32(buf[:]); magic != Magic {
		return h, &ChannelError{Channel: -1, Field: "magic", Err: fmt.Errorf("%w: %#08x (want %#08x)", ErrMalformed, magic, uint32(Magic))}
	}
	if v := binary.BigEndian.Uint32(buf[4:]); v != Version {
		return h, &ChannelError{Channel: int(h.ID), Field: "version", Err: fmt.Errorf("%w: %d (want %d)", ErrMalformed, v, Version)}
	}
	return h, nil
}

// truncated turns an unexpected end of file into ErrTruncated.
func truncated(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: the peer closed the connection", ErrTruncated)
	}
	return err
}
