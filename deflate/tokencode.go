package deflate

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

func (t *tokenCodes) assign(r *routines, lens *tokenLens, c *canonical) {
	c.assign(r, t.litLen[:], lens.litLen[:])
	c.assign(r, t.distance[:], lens.distance[:])
}

// putGo writes tokens.
func (t *tokenCodes) putGo(w *bitWriter, tokens []token) {
	for _, tok := range tokens {
		if !tok.isMatch() {
			c := t.litLen[uint8(tok)]
			w.put(c.bits(), c.count())
			continue
		}
		sym, extraBits, extra := lengthSymbol(tok.length3())
		c := t.litLen[endOfBlock+sym]
		v, n := c.bits()|uint64(extra)<<c.count(), c.count()+extraBits
		sym, extraBits, extra = distanceSymbol(tok.distance1())
		c = t.distance[sym]
		v |= (c.bits() | uint64(extra)<<c.count()) << n
		w.put(v, n+c.count()+extraBits)
	}
}

// end writes the end of the block.
func (t *tokenCodes) end(w *bitWriter) {
	c := t.litLen[endOfBlock]
	w.put(c.bits(), c.count())
	w.finish()
}
