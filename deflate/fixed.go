package deflate

import "math/bits"

// code is a Huffman code, bits reversed as deflate wants them, with whatever
// extra bits follow it: the bits in the low half, how many in the high half.
type code uint64

func makeCode(v uint64, count uint) code { return code(v | uint64(count)<<32) }
func (c code) bits() uint64              { return uint64(uint32(c)) }
func (c code) count() uint               { return uint(c >> 32) }

// fixedCodes is the code of section 3.2.6 of RFC 1951.
type fixedCodes struct {
	literal  [256]code
	length   [256]code // by length-3, with the extra bits
	distance [numDistance]code
}

var fixed = makeFixedCodes()

// fixedLitLenBits returns the length in bits of a literal or length symbol.
func fixedLitLenBits(sym int) uint {
	switch {
	case sym < 144:
		return 8
	case sym < 256:
		return 9
	case sym < 280:
		return 7
	}
	return 8
}

func makeFixedCodes() *fixedCodes {
	var lens [288]uint8
	for sym := range lens {
		lens[sym] = uint8(fixedLitLenBits(sym))
	}
	var litLen [288]code
	assignCodes(litLen[:], lens[:])

	f := new(fixedCodes)
	copy(f.literal[:], litLen[:])
	for length3 := range f.length {
		sym, extraBits, extra := lengthSymbol(uint(length3))
		c := litLen[endOfBlock+sym]
		f.length[length3] = makeCode(c.bits()|uint64(extra)<<c.count(), c.count()+extraBits)
	}
	for sym := range f.distance {
		f.distance[sym] = makeCode(uint64(bits.Reverse8(uint8(sym))>>3), 5)
	}
	return f
}

const (
	blockFinal   = 1
	blockStored  = 0 << 1
	blockFixed   = 1 << 1
	blockDynamic = 2 << 1
)

// encodeFixed writes tokens as one final block in the fixed code.
func encodeFixed(w *bitWriter, tokens []token) {
	w.put(blockFinal|blockFixed, 3)
	putFixed(w, tokens)
	w.put(0, 7) // endOfBlock is seven zero bits
	w.finish()
}

// putFixedGeneric is the reference for the assembly.
func putFixedGeneric(w *bitWriter, tokens []token) {
	f := fixed
	for _, t := range tokens {
		if !t.isMatch() {
			c := f.literal[uint8(t)]
			w.put(c.bits(), c.count())
			continue
		}
		l := f.length[t.length3()]
		sym, extraBits, extra := distanceSymbol(t.distance1())
		d := f.distance[sym]
		w.put(l.bits()|d.bits()<<l.count()|uint64(extra)<<(l.count()+5), l.count()+5+extraBits)
	}
}
