package deflate

import (
	"encoding/binary"
	"math/bits"
)

// groupsGo writes groups of positions. Where other code would branch on each byte, it
// computes: branches that depend on the bytes of a page are mispredicted too often.
func groupsGo(e *Encoder) {
	var (
		f     = &e.fast
		t     = &f.table
		src   = &e.match.src
		buf   = &e.out.buf
		words = fixedWords
		n     = uint(e.match.n)

		pos   = uint(f.pos)
		end   = uint(f.end)
		acc   = e.out.acc
		count = e.out.count
		out   = uint(e.out.n)
	)
	for pos+groupLen+minMatch-1 <= n && out <= uint(len(buf)-8) && pos-end < coldLen {
		// The position before the group is entered too: it is the last one of a match
		// that may have ended there.
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

		// One bit for each position that has a match.
		hits := isZero(w0^binary.LittleEndian.Uint32(src[c0:])) | isZero(w1^binary.LittleEndian.Uint32(src[c1:]))<<1 |
			isZero(w2^binary.LittleEndian.Uint32(src[c2:]))<<2 | isZero(w3^binary.LittleEndian.Uint32(src[c3:]))<<3
		all := uint64(c0) | uint64(c1)<<16 | uint64(c2)<<32 | uint64(c3)<<48
		k := uint(bits.TrailingZeros32(hits|1<<groupLen)) & 7
		from := uint(uint16(all >> (k * 16 & 63)))
		at := (pos + k) & 0xffff
		distance := at - from
		for distance > maxDistance && hits != 0 {
			// Too far, which happens in long pages only.
			hits &= hits - 1
			k = uint(bits.TrailingZeros32(hits|1<<groupLen)) & 7
			from = uint(uint16(all >> (k * 16 & 63)))
			at = (pos + k) & 0xffff
			distance = at - from
		}

		// The literals before the match, and where each ends.
		l0, l1 := words.literal[uint8(x>>8)], words.literal[uint8(x>>16)]
		l2, l3 := words.literal[uint8(x>>24)], words.literal[uint8(x>>32)]
		n1 := l0.count()
		n2 := n1 + l1.count()
		n3 := n2 + l2.count()
		v := l0.bits() | l1.bits()<<(n1&63) | l2.bits()<<(n2&63)

		if hits == 0 {
			acc |= (v | l3.bits()<<(n3&63)) << (count & 63)
			count += n3 + l3.count()
			pos += groupLen
		} else {
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
			pos = at + length
			end = pos

			// The byte before may match too, if its own entry was replaced.
			one := uint(isZero(uint32(src[(from-1)&0xffff])^uint32(src[(at-1)&0xffff]))) &
				((from + 0xffff) >> 16) & ((k + 3) >> 2) & ((length - maxMatch) >> 63)
			k -= one
			length += one

			c := (n1<<8 | n2<<16 | n3<<24) >> (k * 8 & 63) & 0xff
			acc |= v & (1<<(c&63) - 1) << (count & 63)
			count += c
			l, d := words.length[uint8(length-3)], words.distance[(distance-1)&(maxDistance-1)]
			acc |= (l.bits() | d.bits()<<(l.count()&63)) << (count & 63)
			count += l.count() + d.count()
		}
		// At most 7 bits, three literals and a match: 62 bits.
		binary.LittleEndian.PutUint64(buf[out:out+8], acc)
		out += count >> 3
		acc >>= count & 56
		count &= 7
	}
	f.pos, f.end = int(pos), int(end)
	e.out.acc, e.out.count, e.out.n = acc, count, int(out)
}

// isZero returns 1 if x is zero, and 0 otherwise.
func isZero(x uint32) uint32 { return uint32((uint64(x) - 1) >> 63) }

// longMatch returns how many bytes, at most maxMatch, are the same from and at. The first
// minMatch+16 are.
func longMatch(src *source, from, at uint) uint {
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
