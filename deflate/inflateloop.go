package deflate

import "encoding/binary"

// decodeGo decodes symbols and returns why it stopped. The assembly may report another
// one of several problems.
//
// The reader's state is in local variables, which become registers. Of count, the low six
// bits are valid: subtracting a whole entry subtracts its entryCount from them. The other
// bits are never used. After a refill 56 bits are valid. A literal takes at most litLenBits
// of them, and a match at most 38, because longer codes end the loop. So the next entry, e,
// can be looked up before the refill.
func (d *Decoder) decodeGo(c *blockCode) (s status) {
	if !d.in.refill() {
		return statusInput
	}
	buf, pos, limit := d.in.buf, d.in.pos, d.in.limit
	acc, count := d.in.acc, uint64(d.in.count)
	n, size, out := d.n, d.size, &d.out
	litLen, distances := &c.litLen.table, &c.distance.table
	e := uint64(litLen[acc&litLenMask])
	for {
		if n > size {
			s = statusFull
			break
		}
		if pos > limit {
			s = statusInput
			break
		}
		acc |= binary.LittleEndian.Uint64(buf[pos:pos+8]) << (count & 63)
		pos += int(^count >> 3 & 7)
		count |= 56
		if e&entryLiteral != 0 {
			acc >>= e & entryCount
			count -= e
			out[n] = byte(e >> entryValue)
			n++
			if e = uint64(litLen[acc&litLenMask]); e&entryLiteral != 0 {
				acc >>= e & entryCount
				count -= e
				out[n] = byte(e >> entryValue)
				n++
				if e = uint64(litLen[acc&litLenMask]); e&entryLiteral != 0 {
					acc >>= e & entryCount
					count -= e
					out[n] = byte(e >> entryValue)
					n++
					if e = uint64(litLen[acc&litLenMask]); e&entryLiteral != 0 {
						acc >>= e & entryCount
						count -= e
						out[n] = byte(e >> entryValue)
						n++
						e = uint64(litLen[acc&litLenMask])
						continue
					}
				}
			}
			// Too few bits may be left for a match. Here pos has passed limit by at most
			// one load, which loadMargin allows.
			acc |= binary.LittleEndian.Uint64(buf[pos:pos+8]) << (count & 63)
			pos += int(^count >> 3 & 7)
			count |= 56
		}
		if e&entrySpecial != 0 {
			switch e >> entryValue {
			case specialEnd:
				acc >>= e & entryCount
				count -= e
				s = statusEnd
			case specialLong:
				s = statusLong
			default:
				s = statusSymbol
			}
			break
		}
		bits := acc >> (e & entryCount)
		f := uint64(distances[bits&distanceMask])
		if f&entrySpecial != 0 {
			s = statusSymbol
			if f>>entryValue == specialLong {
				s = statusLong
			}
			break
		}
		length := int(e>>entryValue + acc&(1<<(e&entryCount)-1)>>(e>>entryCode&entryCount))
		distance := int(f>>entryValue + bits&(1<<(f&entryCount)-1)>>(f>>entryCode&entryCount))
		acc = bits >> (f & entryCount)
		count -= e + f
		e = uint64(litLen[acc&litLenMask])
		if distance > n {
			s = statusDistance
			break
		}
		if distance >= 16 {
			copyFar(out, n, length, distance)
		} else {
			copyNear(out, n, length, distance)
		}
		n += length
	}
	d.in.acc, d.in.count, d.in.pos, d.n = acc, uint(count&63), pos, n
	return s
}

// copyFar copies length bytes to out[at:] from distance bytes before, at least 16. It
// writes whole multiples of 16 bytes, at least 32: most matches are shorter than that.
func copyFar(out *pageBuffer, at, length, distance int) {
	from := at - distance
	*(*[16]byte)(out[at : at+16]) = *(*[16]byte)(out[from : from+16])
	*(*[16]byte)(out[at+16 : at+32]) = *(*[16]byte)(out[from+16 : from+32])
	for end := at + length; at+32 < end; {
		at += 16
		from += 16
		*(*[16]byte)(out[at+16 : at+32]) = *(*[16]byte)(out[from+16 : from+32])
	}
}

// repeat has factors that repeat the low bytes of a word: as many bytes as the index says.
var repeat = [8]uint64{0, 0x0101010101010101, 0x0001000100010001, 0x0001000001000001,
	0x0000000100000001, 0x0000010000000001, 0x0001000000000001, 0x0100000000000001}

// repeatStep is how many bytes of such a word are whole repetitions.
var repeatStep = [8]uint8{1: 8, 2: 8, 3: 6, 4: 8, 5: 5, 6: 6, 7: 7}

// copyNear copies length bytes to out[at:] from distance bytes before, less than 16. It
// writes whole words.
func copyNear(out *pageBuffer, at, length, distance int) {
	from, end := at-distance, at+length
	if distance >= 8 {
		for ; at < end; at += 8 {
			*(*[8]byte)(out[at : at+8]) = *(*[8]byte)(out[from : from+8])
			from += 8
		}
		return
	}
	// A word of whole repetitions and a part of one. The word advances by the whole ones.
	unused := uint(8-distance) * 8 & 63
	word := binary.LittleEndian.Uint64(out[from:from+8]) << unused >> unused * repeat[distance&7]
	step := int(repeatStep[distance&7])
	for ; at < end; at += step {
		binary.LittleEndian.PutUint64(out[at:at+8], word)
	}
}
