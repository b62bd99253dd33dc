package deflate

// distanceLimit is the longest distance code written, which again is one that
// an inflater finds in a small table.
const distanceLimit = 9

// denseCoder writes tokens in a code made for them.
type denseCoder struct {
	weights   weights
	lens      tokenLens
	codes     tokenCodes
	header    header
	builder   codeBuilder
	canonical canonical
}

// weights says how often each symbol occurs.
type weights struct {
	litLen    [litLenCodes]uint32
	distance  [distanceCodes]uint32
	extraBits int // of all matches together
	counters  counters
}

// encode writes the tokens of m as one final block, fixed or dynamic, whichever
// is shorter. It writes nothing if that is longer than limit bytes.
func (d *denseCoder) encode(w *bitWriter, m *matcher, limit int) {
	if m.incompressible() && looksRandom(m.page()) {
		return
	}
	d.weights.count(m.tokens())
	d.builder.build(d.lens.litLen[:], d.weights.litLen[:], codeLimit)
	distances := completeDistances(d.weights.distance)
	d.builder.build(d.lens.distance[:], distances[:], distanceLimit)
	d.header.plan(&d.lens, &d.builder)

	dynamic, fixed := d.header.bits()+d.weights.bits(&d.lens), d.weights.bits(fixedLens)
	if (3+min(dynamic, fixed)+7)/8 > limit {
		return
	}
	if fixed <= dynamic {
		encodeFixed(w, m.tokens())
		return
	}
	w.put(blockFinal|blockDynamic, 3)
	d.header.write(w, &d.canonical)
	d.codes.assign(&d.lens, &d.canonical)
	d.codes.putTokens(w, m.tokens())
	d.codes.end(w)
}

// count takes stock of a block made of tokens.
func (s *weights) count(tokens []token) {
	clear(s.litLen[:])
	clear(s.distance[:])
	s.extraBits = 0
	s.add(tokens)
	s.litLen[endOfBlock] = 1
}

// addGeneric adds tokens. It is the reference for the assembly.
func (s *weights) addGeneric(tokens []token) {
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

// completeDistances pretends that at least two distance symbols occur, for some
// inflaters frown on a code that leaves bit patterns unused.
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

// bits returns how many bits everything takes in codes of the given lengths.
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
	// randomSquares is the sum of the squares of all byte counts in the sample
	// that means 7.85 bits of collision entropy a byte, which is no more than
	// the Shannon entropy. What little a code could save there the
	// code's own description costs.
	randomSquares = 1647
)

// looksRandom reports that page has no skew worth a Huffman code, by a sample
// from four places.
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
