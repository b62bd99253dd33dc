package deflate

// distanceLimit is the length of the longest distance code, chosen like codeLimit for
// an inflater's small table.
const distanceLimit = 9

// denseCoder writes tokens in a Huffman code built for them.
type denseCoder struct {
	weights   weights
	lens      tokenLens
	codes     tokenCodes
	header    header
	builder   codeBuilder
	canonical canonical
}

// weights counts the occurrences of each symbol.
type weights struct {
	litLen    [litLenCodes]uint32
	distance  [distanceCodes]uint32
	extraBits int // of all matches
	counters  counters
}

// encode writes the tokens of m as one final block, fixed or dynamic, whichever is
// shorter. It writes nothing if the block is longer than limit bytes.
func (d *denseCoder) encode(r *routines, w *bitWriter, m *matcher, limit int) {
	if m.incompressible() && looksRandom(m.page()) {
		return
	}
	d.weights.count(r, m.tokens())
	d.builder.build(d.lens.litLen[:], d.weights.litLen[:], codeLimit)
	distances := completeDistances(d.weights.distance)
	d.builder.build(d.lens.distance[:], distances[:], distanceLimit)
	d.header.plan(&d.lens, &d.builder)

	dynamic, fixed := d.header.bits()+d.weights.bits(&d.lens), d.weights.bits(fixedLens)
	if (3+min(dynamic, fixed)+7)/8 > limit {
		return
	}
	if fixed <= dynamic {
		encodeFixed(w, m.tokens(), func(w *bitWriter, tokens []token) { r.put(fixedCodes, w, tokens) })
		return
	}
	w.put(blockFinal|blockDynamic, 3)
	d.header.write(r, w, &d.canonical)
	d.codes.assign(r, &d.lens, &d.canonical)
	r.put(&d.codes, w, m.tokens())
	d.codes.end(w)
}

// count counts the symbols of a block of tokens.
func (s *weights) count(r *routines, tokens []token) {
	clear(s.litLen[:])
	clear(s.distance[:])
	s.extraBits = 0
	r.count(s, tokens)
	s.litLen[endOfBlock] = 1
}

// addGo adds tokens.
func (s *weights) addGo(tokens []token) {
	for _, t := range tokens {
		if !t.isMatch() {
			s.litLen[uint8(t)]++
			continue
		}
		sym, extraBits, _ := lengthSymbol(t.length3())
		s.litLen[endOfBlock+sym]++
		s.extraBits += int(extraBits)
		sym, extraBits, _ = distanceSymbol(t.distance1())
		s.distance[sym]++
		s.extraBits += int(extraBits)
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

// bits returns how many bits the block takes in codes of the given lengths.
func (s *weights) bits(lens *tokenLens) int {
	sum := uint32(0)
	for sym, w := range &s.litLen {
		sum += w * uint32(lens.litLen[sym])
	}
	for sym, w := range &s.distance {
		sum += w * uint32(lens.distance[sym])
	}
	return int(sum) + s.extraBits
}

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
