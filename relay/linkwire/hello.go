package linkwire

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Version is the version of the format that this package speaks.
const Version = 1

// helloMagic begins a link: "VMFerryL".
const helloMagic = 0x564d46657272794c

// helloLen is the length of a Hello and of a Reply on the wire.
const helloLen = 64

// Hello is what the source's relay sends first.
//
//	0 u64 magic   8 u16 version   10 u8 kind 1   11 zero   12 u32 reserved   16 u8[16] order
//	32 u64 number   40 u64 after   48 u64 cache   56 zeros
type Hello struct {
	// Order names the process whose connections have to reach the destination's QEMU
	// in the order of their numbers, from 0. The destination's relay waits for those
	// of After up to Number: the ones that were not answered when Number was made.
	Order         [16]byte
	Number, After uint64
	// Cache is the size in bytes of the cache that the source's relay would use; 0 for
	// none.
	Cache uint64
}

// Reply is what the destination's relay sends first: after it has connected to its QEMU,
// or before a RESET frame that says why it has not.
//
//	0 u64 magic   8 u16 version   10 u8 kind 2   11 zero   12 u32 reserved   16 u64 cache   24 zeros
type Reply struct {
	// Cache is the size in bytes of the cache that both relays use: at most the
	// Hello's.
	Cache uint64
}

const kindHello, kindReply = 1, 2

func fixedHead(kind byte) []byte {
	b := make([]byte, helloLen)
	binary.BigEndian.PutUint64(b, helloMagic)
	binary.BigEndian.PutUint16(b[8:], Version)
	b[10] = kind
	return b
}

// Append appends the hello in its wire form.
func (h Hello) Append(b []byte) []byte {
	w := fixedHead(kindHello)
	copy(w[16:], h.Order[:])
	binary.BigEndian.PutUint64(w[32:], h.Number)
	binary.BigEndian.PutUint64(w[40:], h.After)
	binary.BigEndian.PutUint64(w[48:], h.Cache)
	return append(b, w...)
}

// Append appends the reply in its wire form.
func (r Reply) Append(b []byte) []byte {
	w := fixedHead(kindReply)
	binary.BigEndian.PutUint64(w[16:], r.Cache)
	return append(b, w...)
}

// ReadHello reads a Hello.
func ReadHello(r io.Reader) (h Hello, err error) {
	b, err := readFixed(r, kindHello)
	if err != nil {
		return h, err
	}
	copy(h.Order[:], b[16:])
	be := binary.BigEndian
	h.Number, h.After, h.Cache = be.Uint64(b[32:]), be.Uint64(b[40:]), be.Uint64(b[48:])
	return h, checkCache(h.Cache)
}

// ReadReply reads a Reply.
func ReadReply(r io.Reader) (p Reply, err error) {
	b, err := readFixed(r, kindReply)
	if err != nil {
		return p, err
	}
	p.Cache = binary.BigEndian.Uint64(b[16:])
	return p, checkCache(p.Cache)
}

// MaxCache is the largest size of a cache that a Hello or a Reply can name.
const MaxCache = 1 << 62

func checkCache(size uint64) error {
	if size > MaxCache {
		return fmt.Errorf("%w: a cache of %d bytes (at most %d)", ErrMalformed, size, uint64(MaxCache))
	}
	return nil
}

func readFixed(r io.Reader, kind byte) (*[helloLen]byte, error) {
	var b [helloLen]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return nil, fmt.Errorf("reading the other relay's first %d bytes: %w", helloLen, err)
	}
	if magic := binary.BigEndian.Uint64(b[:]); magic != helloMagic {
		return nil, fmt.Errorf("%w: the peer is no relay: it begins with %#016x (want %#016x; is the other side \"vmferry relay\", with --link of the other side?)", ErrMalformed, magic, uint64(helloMagic))
	}
	if v := binary.BigEndian.Uint16(b[8:]); v != Version {
		return nil, fmt.Errorf("%w: the peer speaks version %d, this side %d (run the same vmferry on both)", ErrVersion, v, Version)
	}
	if b[10] != kind {
		return nil, fmt.Errorf("%w: both relays have the same side of the link (--link source at the source, --link destination at the destination)", ErrMalformed)
	}
	return &b, nil
}
