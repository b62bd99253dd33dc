package deflate

// Tables are the two codes of a block.
type Tables struct {
	LitLenBits [NumLitLen]uint8
	LitLenCode [NumLitLen]uint16
	DistBits   [NumDist]uint8
	DistCode   [NumDist]uint16
}

// Histogram counts the symbols of a block.
type Histogram struct {
	LitLen [NumLitLen]uint32
	Dist   [NumDist]uint32
}

// Build makes the best tables for h. A block without a match still gets one
// distance code, since a header cannot describe none.
func (t *Tables) Build(h *Histogram) {
	dist := h.Dist
	if dist == ([NumDist]uint32{}) {
		dist[0] = 1
	}
	CodeLengths(t.LitLenBits[:], h.LitLen[:], MaxCodeBits)
	CodeLengths(t.DistBits[:], dist[:], MaxCodeBits)
	Codes(t.LitLenCode[:], t.LitLenBits[:])
	Codes(t.DistCode[:], t.DistBits[:])
}

// DataBits returns the bits that h's symbols take with these tables.
func (t *Tables) DataBits(h *Histogram) int {
	n := 0
	for s, f := range h.LitLen {
		n += int(f) * int(t.LitLenBits[s])
	}
	for s, f := range h.Dist {
		n += int(f) * int(t.DistBits[s])
	}
	return n + extraBits(h)
}

// FixedBits returns the bits that h's symbols take in a block with fixed tables.
func FixedBits(h *Histogram) int {
	n := 0
	for s, f := range h.LitLen {
		n += int(f) * int(FixedLitLenBits(s))
	}
	for _, f := range h.Dist {
		n += int(f) * 5
	}
	return n + extraBits(h)
}

func extraBits(h *Histogram) int {
	n := 0
	for i, e := range LengthExtra {
		n += int(h.LitLen[257+i]) * int(e)
	}
	for i, e := range DistExtra {
		n += int(h.Dist[i]) * int(e)
	}
	return n
}

// codeLenOrder is the order in which a header lists the code length code.
var codeLenOrder = [NumCodeLen]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// run is one symbol of the code length alphabet, with its extra bits.
type run struct{ sym, extra uint8 }

// runExtra gives the extra bits of symbols 16 (repeat), 17 and 18 (zeros).
var runExtra = map[uint8]uint{16: 2, 17: 3, 18: 7}

// runs describes code lengths with repeats.
func runs(lengths []uint8) []run {
	var out []run
	for i := 0; i < len(lengths); {
		l := lengths[i]
		n := 1
		for i+n < len(lengths) && lengths[i+n] == l {
			n++
		}
		i += n
		if l != 0 {
			out = append(out, run{sym: l})
			n--
		}
		for n > 0 {
			switch {
			case l == 0 && n >= 11:
				k := min(n, 138)
				out = append(out, run{18, uint8(k - 11)})
				n -= k
			case l == 0 && n >= 3:
				out = append(out, run{17, uint8(n - 3)})
				n = 0
			case l != 0 && n >= 3:
				k := min(n, 6)
				out = append(out, run{16, uint8(k - 3)})
				n -= k
			default:
				out = append(out, run{sym: l})
				n--
			}
		}
	}
	return out
}

// WriteHeader writes the header of a dynamic block, from BFINAL to the last code
// length.
func (t *Tables) WriteHeader(w *BitWriter, final bool) {
	numLitLen, numDist := NumLitLen, NumDist
	for numLitLen > 257 && t.LitLenBits[numLitLen-1] == 0 {
		numLitLen--
	}
	for numDist > 1 && t.DistBits[numDist-1] == 0 {
		numDist--
	}
	all := append(append(make([]uint8, 0, NumLitLen+NumDist), t.LitLenBits[:numLitLen]...), t.DistBits[:numDist]...)
	list := runs(all)

	var freq [NumCodeLen]uint32
	for _, r := range list {
		freq[r.sym]++
	}
	var lens [NumCodeLen]uint8
	var codes [NumCodeLen]uint16
	CodeLengths(lens[:], freq[:], maxHeaderBits)
	Codes(codes[:], lens[:])
	listed := NumCodeLen
	for listed > 4 && lens[codeLenOrder[listed-1]] == 0 {
		listed--
	}

	bfinal := uint32(0)
	if final {
		bfinal = 1
	}
	w.Bits(bfinal|2<<1, 3)
	w.Bits(uint32(numLitLen-257), 5)
	w.Bits(uint32(numDist-1), 5)
	w.Bits(uint32(listed-4), 4)
	for _, s := range codeLenOrder[:listed] {
		w.Bits(uint32(lens[s]), 3)
	}
	for _, r := range list {
		w.Code(uint32(codes[r.sym]), uint(lens[r.sym]))
		w.Bits(uint32(r.extra), runExtra[r.sym])
	}
}
