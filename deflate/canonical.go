package deflate

import "math/bits"

// maxCodeBits is the length of the longest code of deflate.
const maxCodeBits = 15

// canonical orders the symbols of a prefix code by their codes, which follow
// from the codes' lengths alone (RFC 1951, section 3.2.2).
type canonical struct {
	count [maxCodeBits + 1]uint16 // codes of each length
	// sorted are the symbols with a code in order. The assembly stores whole
	// vectors.
	sorted [litLenCodes + 32]uint16
}

// sortGo takes lens, the length of each symbol's code or zero.
func (c *canonical) sortGo(lens []uint8) {
	// Neighbours often have the same length. Two counters keep one count from waiting
	// for the other.
	var count [2][16]uint16
	for i, n := range lens {
		count[i&1][n&15]++
	}
	var next [16]uint16
	total := uint16(0)
	c.count[0] = 0
	for n := 1; n <= maxCodeBits; n++ {
		c.count[n] = count[0][n] + count[1][n]
		next[n] = total
		total += c.count[n]
	}
	// Symbols without a code go behind those with one, so that no branch is needed.
	next[0] = total
	for sym, n := range lens {
		at := &next[n&15]
		c.sorted[*at] = uint16(sym)
		*at++
	}
}

// assign sets codes to the codes of lengths lens, none of them longer than
// codeLimit.
func (c *canonical) assign(r *routines, codes []code, lens []uint8) {
	r.sort(c, lens)
	clear(codes)
	v, i := uint16(0), 0
	for n := 1; n <= codeLimit; n++ {
		for _, sym := range c.sorted[i : i+int(c.count[n])] {
			codes[sym] = code(bits.Reverse16(v)>>(16-n)) | code(n)<<codeLimit
			v++
		}
		i += int(c.count[n])
		v <<= 1
	}
}
