package deflate

// fixedCodes is the code of section 3.2.6 of RFC 1951.
var fixedCodes, fixedLens = makeFixedCodes()

func makeFixedCodes() (*tokenCodes, *tokenLens) {
	lens := new(tokenLens)
	for sym := range lens.litLen {
		switch {
		case sym < 144:
			lens.litLen[sym] = 8
		case sym < 256:
			lens.litLen[sym] = 9
		case sym < 280:
			lens.litLen[sym] = 7
		default:
			lens.litLen[sym] = 8
		}
	}
	for sym := range lens.distance {
		lens.distance[sym] = 5
	}
	codes := new(tokenCodes)
	var b codeBuilder
	b.setLengths(lens.litLen[:])
	b.codes(codes.litLen[:], lens.litLen[:])
	b.setLengths(lens.distance[:])
	b.codes(codes.distance[:], lens.distance[:])
	return codes, lens
}

// sortOnly are the routines that make the fixed code, which the other routines refer to.
var sortOnly = &routines{sort: (*canonical).sortGo}

const (
	blockFinal   = 1
	blockStored  = 0 << 1
	blockFixed   = 1 << 1
	blockDynamic = 2 << 1
)

// encodeFixed writes tokens with put as one final block in the fixed code.
func encodeFixed(w *bitWriter, tokens []token, put func(w *bitWriter, tokens []token)) {
	w.put(blockFinal|blockFixed, 3)
	put(w, tokens)
	fixedCodes.end(w)
}

// bitsAndCount is up to 15 bits of a stream, above their number in the low byte. The
// assembly uses this layout.
type bitsAndCount uint32

func (b bitsAndCount) bits() uint64 { return uint64(b >> 8) }
func (b bitsAndCount) count() uint  { return uint(uint8(b)) }

// fixedTables have everything that the fixed code writes, for those who look it up rather
// than compute it. The assembly uses this layout.
type fixedTables struct {
	literal  [256]bitsAndCount
	length   [256]bitsAndCount         // by length-3, with the extra bits
	distance [maxDistance]bitsAndCount // by distance-1, with the extra bits
}

var fixedWords = makeFixedTables()

func makeFixedTables() *fixedTables {
	t := new(fixedTables)
	join := func(c code, extraBits, extra uint) bitsAndCount {
		return bitsAndCount((c.bits()|uint64(extra)<<c.count())<<8) | bitsAndCount(c.count()+extraBits)
	}
	for i := range t.literal {
		t.literal[i] = join(fixedCodes.litLen[i], 0, 0)
	}
	for i := range t.length {
		sym, extraBits, extra := lengthSymbol(uint(i))
		t.length[i] = join(fixedCodes.litLen[endOfBlock+sym], extraBits, extra)
	}
	for i := range t.distance {
		sym, extraBits, extra := distanceSymbol(uint(i))
		t.distance[i] = join(fixedCodes.distance[sym], extraBits, extra)
	}
	return t
}
