package linkwire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vmferry/vmferry/guest"
)

// Kind is the kind of a frame.
type Kind uint8

const (
	// KindBytes carries bytes of the connection, KindPacket one RAM packet of a multifd
	// channel.
	KindBytes Kind = iota + 1
	KindPacket
	// KindCache names the cache that the packets after it use.
	KindCache
	// KindAck acknowledges packets of the other direction.
	KindAck
	// KindEnd says that this direction of the QEMU connection has ended.
	KindEnd
	// KindReset says that the QEMU connection broke, and why.
	KindReset
	// KindAlive says nothing. It shows that the link works.
	KindAlive
	// KindClose is the last frame of a side: both directions have ended.
	KindClose
)

func (k Kind) String() string {
	names := [...]string{KindBytes: "BYTES", KindPacket: "PACKET", KindCache: "CACHE", KindAck: "ACK", KindEnd: "END", KindReset: "RESET", KindAlive: "ALIVE", KindClose: "CLOSE"}
	if k == 0 || int(k) >= len(names) {
		return fmt.Sprintf("frame of kind %d", uint8(k))
	}
	return names[k]
}

const (
	// frameHeaderLen is the length of a frame's header: u8 kind, u24 zero, u32 length of the body.
	frameHeaderLen = 8
	// MaxBytes is the most bytes of a connection in one BYTES frame.
	MaxBytes = 256 << 10
	// MaxReason is the longest reason in a RESET frame.
	MaxReason = 1024
	// maxHead bounds the head of a PACKET frame: the channel's header, and a form and
	// its fields for each page.
	maxHead = 64 << 10
	// maxData bounds the data of a PACKET frame before and after zstd, which adds less
	// than a thousandth to what it cannot compress.
	maxData    = guest.PacketBytes
	maxZstd    = maxData + maxData/128 + 1024
	maxPayload = packetFixedLen + maxHead + maxZstd
)

var (
	// ErrMalformed is wrapped if a frame does not follow the format.
	ErrMalformed = errors.New("linkwire: malformed frame")
	// ErrCacheMismatch is wrapped if the two sides' caches differ. The frame's bytes
	// are not passed on.
	ErrCacheMismatch = errors.New("linkwire: the caches of the two relays differ")
	// ErrVersion is wrapped if the peer does not speak this version of the format.
	ErrVersion = errors.New("linkwire: unknown version of the link's format")
)

func malformed(kind Kind, format string, args ...any) error {
	return fmt.Errorf("%w: %v: %s", ErrMalformed, kind, fmt.Sprintf(format, args...))
}

// appendFrameHeader appends the header of a frame whose body has n bytes.
func appendFrameHeader(b []byte, kind Kind, n int) []byte {
	return binary.BigEndian.AppendUint32(append(b, byte(kind), 0, 0, 0), uint32(n))
}

// parseFrameHeader returns the kind and the length of the body, within the bound of the
// kind.
func parseFrameHeader(h []byte) (Kind, int, error) {
	kind, n := Kind(h[0]), binary.BigEndian.Uint32(h[4:])
	if h[1]|h[2]|h[3] != 0 {
		return kind, 0, malformed(kind, "reserved bytes of the header are not zero")
	}
	least, most := 0, 0
	switch kind {
	case KindBytes:
		least, most = bytesFixedLen, bytesFixedLen+MaxBytes+MaxBytes/128+1024
	case KindPacket:
		least, most = packetFixedLen, maxPayload
	case KindCache:
		least, most = cacheBodyLen, cacheBodyLen
	case KindAck:
		least, most = 8, 8
	case KindReset:
		most = MaxReason
	case KindEnd, KindAlive, KindClose:
	default:
		return kind, 0, fmt.Errorf("%w: %v is unknown", ErrMalformed, kind)
	}
	if n < uint32(least) || n > uint32(most) {
		return kind, 0, malformed(kind, "%d bytes (want %d to %d)", n, least, most)
	}
	return kind, int(n), nil
}

// AppendEnd appends an END frame.
func AppendEnd(b []byte) []byte { return appendFrameHeader(b, KindEnd, 0) }

// AppendAlive appends an ALIVE frame.
func AppendAlive(b []byte) []byte { return appendFrameHeader(b, KindAlive, 0) }

// AppendClose appends a CLOSE frame.
func AppendClose(b []byte) []byte { return appendFrameHeader(b, KindClose, 0) }

// AppendAck appends an ACK frame: so many PACKET frames of the other direction have been
// read.
func AppendAck(b []byte, packets uint64) []byte {
	return binary.BigEndian.AppendUint64(appendFrameHeader(b, KindAck, 8), packets)
}

// AppendReset appends a RESET frame. It cuts the reason at MaxReason bytes.
func AppendReset(b []byte, reason string) []byte {
	reason = reason[:min(len(reason), MaxReason)]
	return append(appendFrameHeader(b, KindReset, len(reason)), reason...)
}

// CacheID names the cache of a migration. The source's relay chooses it at random.
type CacheID [16]byte

// cacheBodyLen is the length of a CACHE frame's body: the id, u32 page size.
const cacheBodyLen = 20

// AppendCache appends a CACHE frame for pages of pageSize bytes.
func AppendCache(b []byte, id CacheID, pageSize int) []byte {
	b = append(appendFrameHeader(b, KindCache, cacheBodyLen), id[:]...)
	return binary.BigEndian.AppendUint32(b, uint32(pageSize))
}

// parseCache reads the body of a CACHE frame.
func parseCache(body []byte) (id CacheID, pageSize int, err error) {
	size := binary.BigEndian.Uint32(body[16:])
	if size < guest.MinPageSize || size > guest.MaxPageSize || size&(size-1) != 0 {
		return id, 0, malformed(KindCache, "pages of %d bytes", size)
	}
	return CacheID(body[:16]), int(size), nil
}
