package deflate

// numLengthSymbols counts the symbols that code lengths are described in.
const numLengthSymbols = 19

// Symbols of the code length alphabet that stand for several lengths
// (RFC 1951, section 3.2.7).
const (
	repeatPrevious  = 16 // 3 to 6 times, 2 extra bits
	repeatZero      = 17 // 3 to 10 times, 3 extra bits
	repeatZeroLong  = 18 // 11 to 138 times, 7 extra bits
	maxPrevious     = 6
	maxZero         = 10
	maxZeroLong     = 138
	minRepeat       = 3
	minZeroLong     = 11
	lengthCodeField = 3 // bits of one length in the header's first table
	headerLimit     = 1<<lengthCodeField - 1
)

// lengthSymbolOrder is the order in which the header lists the lengths of the code
// length code. The least likely symbols come last, where they can be omitted.
var lengthSymbolOrder = [numLengthSymbols]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// repeatBits is how many extra bits follow each code length symbol.
var repeatBits = [numLengthSymbols]uint8{repeatPrevious: 2, repeatZero: 3, repeatZeroLong: 7}

// header describes the two codes of a dynamic block.
type header struct {
	numLitLen, numDistance, numLength int

	items   []headerItem
	store   [litLenCodes + distanceCodes]headerItem
	weights [numLengthSymbols]uint32
	lens    [numLengthSymbols]uint8
	codes   [numLengthSymbols]code
	joined  [litLenCodes + distanceCodes + 1]uint8
}

// headerItem is a code length symbol and the value of its extra bits.
type headerItem struct{ sym, extra uint8 }

// plan computes the description of a pair of codes.
func (h *header) plan(lens *tokenLens, b *codeBuilder) {
	h.numLitLen = trimZeros(lens.litLen[:], endOfBlock+1)
	h.numDistance = trimZeros(lens.distance[:], 1)
	n := copy(h.joined[:], lens.litLen[:h.numLitLen])
	n += copy(h.joined[n:], lens.distance[:h.numDistance])

	clear(h.weights[:])
	h.items = h.store[:0]
	h.runs(n)
	b.build(h.lens[:], h.weights[:], headerLimit)
	h.numLength = numLengthSymbols
	for h.numLength > 4 && h.lens[lengthSymbolOrder[h.numLength-1]] == 0 {
		h.numLength--
	}
}

// trimZeros returns the length of lens without trailing zeros, but no less than
// least.
func trimZeros(lens []uint8, least int) int {
	n := len(lens)
	for n > least && lens[n-1] == 0 {
		n--
	}
	return n
}

// runs turns the first n joined lengths into items.
func (h *header) runs(n int) {
	h.joined[n] = 0xff // ends every run
	for i := 0; i < n; {
		v := h.joined[i]
		first := i
		for i++; h.joined[i] == v; i++ {
		}
		run := i - first
		if v == 0 {
			for ; run >= minZeroLong; run -= min(run, maxZeroLong) {
				h.add(repeatZeroLong, min(run, maxZeroLong)-minZeroLong)
			}
			if run >= minRepeat {
				h.add(repeatZero, run-minRepeat)
				continue
			}
		} else {
			h.add(v, 0)
			run--
			for ; run >= minRepeat; run -= min(run, maxPrevious) {
				h.add(repeatPrevious, min(run, maxPrevious)-minRepeat)
			}
		}
		for ; run > 0; run-- {
			h.add(v, 0)
		}
	}
}

func (h *header) add(sym uint8, extra int) {
	h.items = append(h.items, headerItem{sym, uint8(extra)})
	h.weights[sym]++
}

// bits returns the header's length, without the block type.
func (h *header) bits() int {
	sum := 5 + 5 + 4 + lengthCodeField*h.numLength
	for sym, w := range h.weights {
		sum += int(w) * int(h.lens[sym]+repeatBits[sym])
	}
	return sum
}

// write writes the header, without the block type.
func (h *header) write(r *routines, w *bitWriter, c *canonical) {
	w.put(uint64(h.numLitLen-257)|uint64(h.numDistance-1)<<5|uint64(h.numLength-4)<<10, 14)
	for _, sym := range lengthSymbolOrder[:h.numLength] {
		w.put(uint64(h.lens[sym]), lengthCodeField)
	}
	c.assign(r, h.codes[:], h.lens[:])
	for _, item := range h.items {
		code := h.codes[item.sym]
		w.put(code.bits()|uint64(item.extra)<<code.count(), code.count()+uint(repeatBits[item.sym]))
	}
}
