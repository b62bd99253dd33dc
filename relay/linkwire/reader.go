package linkwire

import (
	"encoding/binary"
)

// reader reads the fields of a frame's body. After the first error all reads return
// zero.
type reader struct {
	b    []byte
	kind Kind
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = malformed(r.kind, format, args...)
	}
}

func (r *reader) take(n int) []byte {
	if r.err != nil || n > len(r.b) {
		r.fail("the frame ends in a field of %d bytes, after %d of them", n, len(r.b))
		return nil
	}
	field := r.b[:n]
	r.b = r.b[n:]
	return field
}

func (r *reader) u8() uint8 {
	if f := r.take(1); f != nil {
		return f[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if f := r.take(2); f != nil {
		return binary.BigEndian.Uint16(f)
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if r.err != nil || n <= 0 {
		r.fail("a number is incomplete or too long")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if r.err != nil || n <= 0 {
		r.fail("a number is incomplete or too long")
		return 0
	}
	r.b = r.b[n:]
	return v
}
