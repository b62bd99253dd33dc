package deflate

// distanceLimit is the length of the longest distance code, chosen like codeLimit for
// an inflater's small table.
const distanceLimit = 9

// denseCoder writes tokens in a Huffman code built for them.
type denseCoder struct {
	weights weights
	lens    tokenLens
	codes   tokenCodes
	header  header
	builder codeBuilder
}

// weights counts the occurrences of each symbol.
type weights struct {
	litLen   [litLenCodes]uint32
	distance [distanceCodes]uint32
	counters counters
}

// encode finds the tokens of m and writes them as one final block, fixed or dynamic, whichever is
// shorter. It writes nothing if the block is longer than limit bytes.
func (d *denseCoder) encode(r *routines, w *bitWriter, m *matcher, limit int) {
	d.weights.reset()
	if !r.find(m, &d.weights) {
		return
	}
	d.weights.litLen[endOfBlock] = 1
	d.buildCodes()
	d.header.plan(&d.lens, &d.builder)

	dynamic, fixed := d.weights.bits(&d.lens)
	dynamic += d.header.bits()
	if (3+min(dynamic, fixed)+7)/8 > limit {
		return
	}
	if fixed <= dynamic {
		encodeFixed(w, m.tokens(), func(w *bitWriter, tokens []token) { r.put(fixedCodes, w, tokens) })
		return
	}
	w.put(blockFinal|blockDynamic, 3)
	d.header.write(w)
	r.put(&d.codes, w, m.tokens())
	d.codes.end(w)
}

// buildCodes builds the codes of the weights.
func (d *denseCoder) buildCodes() {
	d.builder.build(d.lens.litLen[:], d.weights.litLen[:], codeLimit)
	d.builder.codes(d.codes.litLen[:], d.lens.litLen[:])
	distances := completeDistances(d.weights.distance)
	d.builder.build(d.lens.distance[:], distances[:], distanceLimit)
	d.builder.codes(d.codes.distance[:], d.lens.distance[:])
}

// reset sets all weights to zero.
func (s *weights) reset() {
	clear(s.litLen[:])
	clear(s.distance[:])
}

// add counts tokens.
func (s *weights) add(tokens []token) {
	for _, t := range tokens {
		if t.isMatch() {
			s.addMatch(t.length3(), t.distance1())
		} else {
			s.litLen[uint8(t)]++
		}
	}
}

// completeDistances gives at least two distance symbols a weight, because some
// inflaters reject a code that leaves bit patterns unused.
func completeDistances(weights [distanceCodes]uint32) [distanceCodes]uint32 {
	used := 0
	for _, w := range weights {
		if w > 0 {
			used++
		}
	}
	for sym := 0; used < 2; sym++ {
		if weights[sym] == 0 {
			weights[sym] = 1
			used++
		}
	}
	return weights
}

// bits returns how many bits the block takes in codes of the given lengths and in the
// fixed code.
func (s *weights) bits(lens *tokenLens) (own, fixed int) {
	sum := uint64(0)
	for sym, w := range &s.litLen {
		sum += uint64(w) * (fixedCosts.litLen[sym] + uint64(lens.litLen[sym]))
	}
	for sym, w := range &s.distance {
		sum += uint64(w) * (fixedCosts.distance[sym] + uint64(lens.distance[sym]))
	}
	return int(sum & (1<<fixedCostShift - 1)), int(sum >> fixedCostShift)
}

// fixedCostShift separates two sums in one word.
const fixedCostShift = 32

// fixedCosts has the number of bits of each symbol in the fixed code, with the extra
// bits, from fixedCostShift on, and the number of extra bits alone below.
var fixedCosts = func() (costs struct {
	litLen   [litLenCodes]uint64
	distance [distanceCodes]uint64
}) {
	for length3 := range uint(256) {
		sym, extraBits, _ := lengthSymbol(length3)
		costs.litLen[endOfBlock+sym] = uint64(extraBits)
	}
	for distance1 := range uint(32 << 10) {
		sym, extraBits, _ := distanceSymbol(distance1)
		costs.distance[sym] = uint64(extraBits)
	}
	for sym, n := range fixedLens.litLen {
		costs.litLen[sym] |= (costs.litLen[sym] + uint64(n)) << fixedCostShift
	}
	for sym, n := range fixedLens.distance {
		costs.distance[sym] |= (costs.distance[sym] + uint64(n)) << fixedCostShift
	}
	return costs
}()

const (
	randomSample = 512
	// randomSquares is the sum of the squares of all byte counts in the sample at a
	// collision entropy of 7.85 bits a byte, which is at most the Shannon entropy.
	// There a Huffman code saves no more than its description costs.
	randomSquares = 1647
)

// looksRandom reports whether the bytes of page, by a sample from four places, are too
// uniform for a Huffman code.
func looksRandom(page []byte) bool {
	if len(page) < 4*randomSample {
		return false
	}
	var count [256]uint16
	for i := range 4 {
		at := i * (len(page) - randomSample/4) / 3
		for _, b := range page[at : at+randomSample/4] {
			count[b]++
		}
	}
	squares := 0
	for _, n := range count {
		squares += int(n) * int(n)
	}
	return squares <= randomSquares
}
