package deflate

import "encoding/binary"

// code is a Huffman code: its bits, reversed as deflate requires, in the low codeLimit
// bits, and the number of bits above. The assembly uses this layout.
type code uint16

// codeLimit is the length of the longest code that this package writes. In a page,
// longer codes save hardly anything, and for codes this short an inflater needs only
// one small table.
const codeLimit = 11

func (c code) bits() uint64 { return uint64(c & (1<<codeLimit - 1)) }
func (c code) count() uint  { return uint(c >> codeLimit) }

// Alphabet sizes, rounded up to whole vectors. The symbols that deflate does
// not use come last and have no code.
const (
	litLenCodes   = 288
	distanceCodes = 32
)

// tokenLens are the lengths of a pair of codes for tokens.
type tokenLens struct {
	litLen   [litLenCodes]uint8
	distance [distanceCodes]uint8
}

// tokenCodes is such a pair.
type tokenCodes struct {
	litLen   [litLenCodes]code
	distance [distanceCodes]code
}

// putGo writes tokens.
func (t *tokenCodes) putGo(w *bitWriter, tokens []token) {
	acc, count, n := w.acc, w.count, w.n
	for _, tok := range tokens {
		c := t.litLen[uint8(tok)]
		v, bits := c.bits(), c.count()
		if tok.isMatch() {
			p := lengthParts[tok.length3()]
			c = t.litLen[p.symbol%512]
			v, bits = c.bits()|uint64(p.extra)<<(c.count()&63), c.count()+uint(p.extraBits)
			sym, extraBits, extra := distanceSymbol(tok.distance1())
			c = t.distance[sym%distanceCodes]
			v |= (c.bits() | uint64(extra)<<(c.count()&63)) << (bits & 63)
			bits += c.count() + extraBits
		}
		acc |= v << (count & 63)
		count += bits
		binary.LittleEndian.PutUint64(w.buf[n:], acc)
		n += int(count >> 3)
		acc >>= (count &^ 7) & 63
		count &= 7
	}
	w.acc, w.count, w.n = acc, count, n
}

// end writes the end of the block.
func (t *tokenCodes) end(w *bitWriter) {
	c := t.litLen[endOfBlock]
	w.put(c.bits(), c.count())
	w.finish()
}
