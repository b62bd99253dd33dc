package deflate

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

// sortGo takes lens, the length of each symbol's code or zero. It goes over four parts of
// them at once, each with counters of its own, because neighbours often have the same length
// and would wait for each other's count.
func (c *canonical) sortGo(lens []uint8) {
	part := len(lens) / 4
	p0, p1, p2, p3 := lens[:part], lens[part:2*part], lens[2*part:3*part], lens[3*part:]
	p1, p2, rest := p1[:len(p0)], p2[:len(p0)], p3[part:]
	p3 = p3[:len(p0)]
	var next [16][4]uint16
	for i := range p0 {
		next[p0[i]&15][0]++
		next[p1[i]&15][1]++
		next[p2[i]&15][2]++
		next[p3[i]&15][3]++
	}
	for _, n := range rest {
		next[n&15][3]++
	}
	// From counts to places. Symbols without a code go behind those with one, so that no
	// branch is needed.
	total := uint16(0)
	c.count[0] = 0
	for n := 1; n <= maxCodeBits+1; n++ {
		first := total
		for k, count := range next[n&15] {
			next[n&15][k] = total
			total += count
		}
		if n <= maxCodeBits {
			c.count[n] = total - first
		}
	}
	for i := range p0 {
		c.put(&next[p0[i]&15][0], i)
		c.put(&next[p1[i]&15][1], part+i)
		c.put(&next[p2[i]&15][2], 2*part+i)
		c.put(&next[p3[i]&15][3], 3*part+i)
	}
	for i, n := range rest {
		c.put(&next[n&15][3], 4*part+i)
	}
}

// put puts a symbol at a place and increments the place.
func (c *canonical) put(at *uint16, sym int) {
	c.sorted[*at] = uint16(sym)
	*at++
}
