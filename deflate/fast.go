package deflate

import (
	"encoding/binary"
	"math/bits"
)

const (
	// groupLen is how many positions fast looks up together. The match that it takes
	// starts at the first of them that has one. So one branch, which is taken four times
	// in five, decides about four positions.
	groupLen = 4

	// fastBits and fastMul make the hash of fast: the top bits of a product.
	fastBits = 12
	fastMul  = 0x9E3779B1

	// coldGroups groups without a match make fast skip some. It skips one more group
	// for each coldStep groups that follow without a match.
	coldGroups = 24
	coldStep   = 8
)

// fastTable holds, for each hash of four bytes, where they were last seen.
type fastTable [1 << fastBits]uint16

// bitsAndCount is up to 24 bits of a stream with their number in the top byte.
type bitsAndCount uint32

const countShift = 24

func (b bitsAndCount) bits() uint64 { return uint64(b & (1<<countShift - 1)) }
func (b bitsAndCount) count() uint  { return uint(b >> countShift) }

// fixedTables have everything that the fixed code can write. The assembly uses this
// layout.
type fixedTables struct {
	literal  [256]bitsAndCount
	length   [256]bitsAndCount         // by length-3, with the extra bits
	distance [maxDistance]bitsAndCount // by distance-1, with the extra bits
}

var fixedWords = makeFixedTables()

func makeFixedTables() *fixedTables {
	t := new(fixedTables)
	join := func(c code, extraBits, extra uint) bitsAndCount {
		return bitsAndCount(c.bits()) | bitsAndCount(extra)<<c.count() | bitsAndCount(c.count()+extraBits)<<countShift
	}
	for i := range t.literal {
		t.literal[i] = join(fixedCodes.litLen[i], 0, 0)
	}
	for i := range t.length {
		sym, extraBits, extra := lengthSymbol(uint(i))
		t.length[i] = join(fixedCodes.litLen[endOfBlock+sym], extraBits, extra)
	}
	for i := range t.distance {
		sym, extraBits, extra := distanceSymbol(uint(i))
		t.distance[i] = join(fixedCodes.distance[sym], extraBits, extra)
	}
	return t
}

// fastGo compresses the page in one pass.
func fastGo(e *Encoder) {
	var (
		t     = &e.fastTable
		src   = &e.match.src
		buf   = &e.out.buf
		words = fixedWords
		n     = uint(e.match.n)
	)
	clear(t[:])
	// The first byte is a literal, because an empty entry of t is position 0.
	first := words.literal[src[0]]
	var (
		acc    = blockFinal | blockFixed | first.bits()<<3
		count  = 3 + first.count() // of the bits in acc
		out    = uint(0)           // the bytes before these
		pos    = uint(1)           // of the group
		anchor = uint(1)           // the first byte that is not written
		misses = uint(0)           // groups without a match, since the last match
		any    = false
	)
	for pos+groupLen+minMatch-1 <= n && out <= uint(len(buf)-8) {
		// The position before the group is entered too: it is the last one of a match
		// that may have ended here.
		x := binary.LittleEndian.Uint64(src[(pos-1)&0xffff:])
		t[uint32(x)*fastMul>>(32-fastBits)] = uint16(pos - 1)
		w0, w1, w2, w3 := uint32(x>>8), uint32(x>>16), uint32(x>>24), uint32(x>>32)
		h := w0 * fastMul >> (32 - fastBits)
		c0 := t[h]
		t[h] = uint16(pos)
		h = w1 * fastMul >> (32 - fastBits)
		c1 := t[h]
		t[h] = uint16(pos + 1)
		h = w2 * fastMul >> (32 - fastBits)
		c2 := t[h]
		t[h] = uint16(pos + 2)
		h = w3 * fastMul >> (32 - fastBits)
		c3 := t[h]
		t[h] = uint16(pos + 3)
		// One bit for each position that has a match. There are no branches here, because
		// they would often be mispredicted.
		hits := isZero(w0^binary.LittleEndian.Uint32(src[c0:])) | isZero(w1^binary.LittleEndian.Uint32(src[c1:]))<<1 |
			isZero(w2^binary.LittleEndian.Uint32(src[c2:]))<<2 | isZero(w3^binary.LittleEndian.Uint32(src[c3:]))<<3
		k := uint(bits.TrailingZeros32(hits|1<<groupLen)) & 7
		from := uint(uint16((uint64(c0) | uint64(c1)<<16 | uint64(c2)<<32 | uint64(c3)<<48) >> (k * 16 & 63)))
		l0, l1 := words.literal[uint8(x>>8)], words.literal[uint8(x>>16)]
		l2, l3 := words.literal[uint8(x>>24)], words.literal[uint8(x>>32)]
		n1 := l0.count()
		n2 := n1 + l1.count()
		n3 := n2 + l2.count()
		v := l0.bits() | l1.bits()<<(n1&63) | l2.bits()<<(n2&63)
		at := (pos + k) & 0xffff
		if hits == 0 || at-from > maxDistance {
			misses++
			if misses > coldGroups {
				pos += groupLen * (1 + (misses-coldGroups)/coldStep)
				continue
			}
			acc |= (v | l3.bits()<<(n3&63)) << (count & 63)
			count += n3 + l3.count()
			binary.LittleEndian.PutUint64(buf[out:out+8], acc)
			out += count >> 3
			acc >>= count & 56
			count &= 7
			pos += groupLen
			anchor = pos
			continue
		}
		misses = 0
		any = true
		y := binary.LittleEndian.Uint64(src[from+minMatch:]) ^ binary.LittleEndian.Uint64(src[at+minMatch:])
		z := binary.LittleEndian.Uint64(src[from+minMatch+8:]) ^ binary.LittleEndian.Uint64(src[at+minMatch+8:])
		length := uint(minMatch)
		if y == 0 {
			y, length = z, minMatch+8
		}
		if y != 0 {
			length += uint(bits.TrailingZeros64(y)) >> 3
		} else {
			length = longMatch(src, from, at)
		}
		length = min(length, n-at)
		dist := at - from
		end := at + length
		if anchor != pos {
			// Positions were skipped, so the match may start earlier.
			for from > 0 && at > anchor && length < maxMatch && src[from-1] == src[at-1] {
				from--
				at--
				length++
			}
			w := &e.out
			w.acc, w.count, w.n = acc, count, int(out)
			if !w.putLiterals(words, src[anchor:at], e.limit) {
				return
			}
			acc, count, out = w.acc, w.count, uint(w.n)
		} else {
			// The byte before may match as well if its position replaced an entry.
			one := uint(isZero(uint32(src[(from-1)&0xffff])^uint32(src[(at-1)&0xffff]))) &
				((from + 0xffff) >> 16) & ((k + 3) >> 2) & ((length - maxMatch) >> 63)
			k -= one
			length += one
			c := (n1<<8 | n2<<16 | n3<<24) >> (k * 8 & 63) & 0xff
			acc |= v & (1<<(c&63) - 1) << (count & 63)
			count += c
		}
		pos, anchor = end, end
		lw, dw := words.length[uint8(length-3)], words.distance[(dist-1)&(maxDistance-1)]
		acc |= (lw.bits() | dw.bits()<<(lw.count()&63)) << (count & 63)
		count += lw.count() + dw.count()
		binary.LittleEndian.PutUint64(buf[out:out+8], acc)
		out += count >> 3
		acc >>= count & 56
		count &= 7
	}
	w := &e.out
	w.acc, w.count, w.n = acc, count, int(out)
	if !any || !w.putLiterals(words, src[anchor:n], e.limit) {
		w.reset()
		return
	}
	fixedCodes.end(w)
}

// isZero returns 1 if x is zero, and 0 otherwise.
func isZero(x uint32) uint32 { return uint32((uint64(x) - 1) >> 63) }

// putLiterals writes p. If the stream gets longer than limit bytes by that, it writes
// nothing and returns false.
func (w *bitWriter) putLiterals(words *fixedTables, p []byte, limit int) bool {
	if w.n+len(p) > limit { // each literal has at least a byte
		w.reset()
		return false
	}
	for ; len(p) >= 4; p = p[4:] {
		l0, l1, l2, l3 := words.literal[p[0]], words.literal[p[1]], words.literal[p[2]], words.literal[p[3]]
		n1 := l0.count()
		n2 := n1 + l1.count()
		n3 := n2 + l2.count()
		w.put(l0.bits()|l1.bits()<<(n1&63)|l2.bits()<<(n2&63)|l3.bits()<<(n3&63), n3+l3.count())
	}
	for _, b := range p {
		l := words.literal[b]
		w.put(l.bits(), l.count())
	}
	return true
}

// longMatch returns how many bytes, at most maxMatch, are the same from and at. The first
// minMatch+16 are.
func longMatch(src *[MaxPageSize + pageSlack]byte, from, at uint) uint {
	from &= 0xffff
	at &= 0xffff
	for n := uint(minMatch + 16); n < maxMatch; n += 8 {
		y := binary.LittleEndian.Uint64(src[from+n:]) ^ binary.LittleEndian.Uint64(src[at+n:])
		if y != 0 {
			return min(n+uint(bits.TrailingZeros64(y))>>3, maxMatch)
		}
	}
	return maxMatch
}
