package deflate

import "encoding/binary"

// loadMargin is how many bytes the decoding loop needs behind its position at each
// check: it may load eight bytes three times, each seven bytes further.
const loadMargin = 3 * 8

// bitReader reads a stream's bits, least significant first.
//
// It loads eight bytes at a time, so it may hold bytes that are not consumed yet. When
// fewer than loadMargin bytes are left, it moves them to tail, where zeros follow;
// overrun reports reading those.
type bitReader struct {
	acc   uint64
	count uint   // valid bits of acc; the bits above are the next ones or zero
	pos   int    // next byte of buf to load
	limit int    // the last pos at which a load is allowed
	buf   []byte // src, later tail
	end   int    // length of the stream's part of buf
	base  int    // offset in src of buf
	tail  [loadMargin + 5*8]byte
	last  bool // buf is tail
}

func (r *bitReader) reset(src []byte) {
	r.acc, r.count, r.pos, r.base = 0, 0, 0, 0
	r.buf, r.end, r.limit, r.last = src, len(src), len(src)-loadMargin, false
	r.more()
}

// refill makes at least 56 bits valid. If it returns false, more must be called first.
func (r *bitReader) refill() bool {
	if r.pos > r.limit {
		return false
	}
	r.acc |= binary.LittleEndian.Uint64(r.buf[r.pos:]) << (r.count & 63)
	r.pos += int(63-r.count) >> 3
	r.count |= 56
	return true
}

// more makes refill work again after it returned false. It returns false if more bits
// were used than the stream has.
func (r *bitReader) more() bool {
	if r.pos <= r.limit {
		return true
	}
	if r.last {
		return false
	}
	// Return whole bytes that were loaded but not used: a stored block reads bytes and
	// needs them.
	r.pos -= int(r.count) / 8
	r.count &= 7
	clear(r.tail[:])
	r.end = copy(r.tail[:loadMargin+8], r.buf[r.pos:])
	r.base += r.pos
	r.buf, r.pos, r.last = r.tail[:], 0, true
	// Eight bytes that are not used may be loaded, so all bits are certainly used only
	// eight bytes behind the end.
	r.limit = r.end + 8
	return true
}

// ensure makes at least 48 bits valid. It returns false far behind the stream's end.
func (r *bitReader) ensure() bool {
	return r.count >= 48 || r.refill() || r.more() && r.refill()
}

// take consumes count bits, at most 16. Behind the stream's end it returns
// zeros.
func (r *bitReader) take(count uint) uint64 {
	if r.count < count {
		if !r.ensure() && r.count < count {
			r.acc, r.count = 0, count // so far behind the end that overrun reports it
		}
	}
	v := r.acc & (1<<count - 1)
	r.drop(count)
	return v
}

func (r *bitReader) drop(count uint) {
	r.acc >>= count & 63
	r.count -= count
}

// consumed returns how many bits were taken.
func (r *bitReader) consumed() int { return 8*(r.base+r.pos) - int(r.count) }

// overrun reports whether more bits were taken than the stream has.
func (r *bitReader) overrun() bool { return 8*r.pos-int(r.count) > 8*r.end }

// left returns how many whole bytes are not used.
func (r *bitReader) left() int {
	return r.end - r.pos + int(r.count)/8
}

// align drops the bits up to the next byte boundary.
func (r *bitReader) align() { r.drop(r.count & 7) }

// bytes fills the slice to with whole bytes from a byte boundary. It returns false if
// the stream has too few.
func (r *bitReader) bytes(to []byte) bool {
	r.pos -= int(r.count) / 8
	r.acc, r.count = 0, 0
	if len(to) > r.end-r.pos {
		return false
	}
	r.pos += copy(to, r.buf[r.pos:])
	return true
}
