package deflate

// Limits on the codes this package builds. A page is short enough that longer
// codes would hardly save anything, and codes this short let an inflater do with
// one small table.
const (
	litLenLimit   = 11
	distanceLimit = 9
	headerLimit   = 7 // deflate's own
)

// numOwnDistance counts the distance symbols that reach maxDistance.
const numOwnDistance = 24

// lengths tabulates lengthSymbol.
var lengths = func() (t [256]struct{ sym, extraBits, extra uint8 }) {
	for length3 := range t {
		sym, extraBits, extra := lengthSymbol(uint(length3))
		t[length3].sym, t[length3].extraBits, t[length3].extra = uint8(sym), uint8(extraBits), uint8(extra)
	}
	return t
}()

// denseCoder writes tokens in a code made for them.
type denseCoder struct {
	weights struct {
		litLen   [numLitLen]uint32
		distance [numDistance]uint32
	}
	lens struct {
		litLen   [numLitLen]uint8
		distance [numDistance]uint8
	}
	codes struct {
		litLen   [numLitLen]code
		distance [numDistance]code
	}
	extraBits int // of all matches together
	header    header
	builder   codeBuilder
}

// encode writes the tokens of m as one final block, fixed or dynamic, whichever
// is shorter. It writes nothing if that is longer than limit bytes.
func (d *denseCoder) encode(w *bitWriter, m *matcher, limit int) {
	if m.incompressible() && looksRandom(m.page()) {
		return
	}
	d.weigh(m.tokens())
	d.completeDistances()
	d.builder.build(d.lens.litLen[:], d.weights.litLen[:], litLenLimit)
	d.builder.build(d.lens.distance[:], d.weights.distance[:], distanceLimit)
	d.header.plan(d.lens.litLen[:], d.lens.distance[:], &d.builder)

	dynamic, fixed := d.header.bits()+d.dynamicBits(), d.fixedBits()
	if (3+min(dynamic, fixed)+7)/8 > limit {
		return
	}
	if fixed <= dynamic {
		encodeFixed(w, m.tokens())
		return
	}
	w.put(blockFinal|blockDynamic, 3)
	d.header.write(w)
	assignCodes(d.codes.litLen[:], d.lens.litLen[:])
	assignCodes(d.codes.distance[:], d.lens.distance[:])
	d.putTokens(w, m.tokens())
	end := d.codes.litLen[endOfBlock]
	w.put(end.bits(), end.count())
	w.finish()
}

// weigh counts the symbols that tokens are made of.
func (d *denseCoder) weigh(tokens []token) {
	clear(d.weights.litLen[:])
	clear(d.weights.distance[:])
	d.extraBits = 0
	d.weights.litLen[endOfBlock] = 1
	for _, t := range tokens {
		if !t.isMatch() {
			d.weights.litLen[uint8(t)]++
			continue
		}
		l := &lengths[t.length3()]
		d.weights.litLen[endOfBlock+int(l.sym)]++
		sym, extraBits, _ := distanceSymbol(t.distance1())
		d.weights.distance[sym]++
		d.extraBits += int(l.extraBits) + int(extraBits)
	}
}

// completeDistances pretends that at least two distance symbols occur, for some
// inflaters frown on a code that leaves bit patterns unused.
func (d *denseCoder) completeDistances() {
	used := 0
	for _, w := range &d.weights.distance {
		if w > 0 {
			used++
		}
	}
	for sym := 0; used < 2; sym++ {
		if d.weights.distance[sym] == 0 {
			d.weights.distance[sym] = 1
			used++
		}
	}
}

// dynamicBits returns the length of the tokens in the code of lens.
func (d *denseCoder) dynamicBits() int {
	sum := d.extraBits
	for sym, w := range &d.weights.litLen {
		sum += int(w) * int(d.lens.litLen[sym])
	}
	for sym, w := range &d.weights.distance {
		sum += int(w) * int(d.lens.distance[sym])
	}
	return sum
}

// fixedBits returns the length of the tokens in the fixed code.
func (d *denseCoder) fixedBits() int {
	sum := d.extraBits
	for sym, w := range &d.weights.litLen {
		sum += int(w) * int(fixedLitLenBits(sym))
	}
	for _, w := range &d.weights.distance {
		sum += int(w) * 5
	}
	return sum
}

// putTokens writes tokens in the code of codes.
func (d *denseCoder) putTokens(w *bitWriter, tokens []token) {
	for _, t := range tokens {
		if !t.isMatch() {
			c := d.codes.litLen[uint8(t)]
			w.put(c.bits(), c.count())
			continue
		}
		l := &lengths[t.length3()]
		c := d.codes.litLen[endOfBlock+int(l.sym)]
		v, n := c.bits()|uint64(l.extra)<<c.count(), c.count()+uint(l.extraBits)
		sym, extraBits, extra := distanceSymbol(t.distance1())
		c = d.codes.distance[sym]
		v |= (c.bits() | uint64(extra)<<c.count()) << n
		w.put(v, n+c.count()+extraBits)
	}
}

const (
	randomSample = 1024
	// randomSquares is the sum of the squares of all byte counts in the sample
	// that means 7.85 bits of collision entropy a byte, which is no more than
	// the Shannon entropy. What little a code could save there the
	// code's own description costs.
	randomSquares = 5570
)

// looksRandom reports that page has no skew worth a Huffman code, by a sample
// from four places.
func looksRandom(page []byte) bool {
	if len(page) < 2*randomSample {
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
