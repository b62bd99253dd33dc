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
	codes.assign(sortOnly, lens, new(canonical))
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
