package deflate

import (
	"encoding/binary"
	"math/bits"
)

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

	// The code lengths of both codes are described by items: a code length symbol and
	// the value of its extra bits each. Eight are stored at once.
	numItems int
	symbols  [headerItems + 8]uint8
	extra    [headerItems + 8]uint8

	weights [numLengthSymbols]uint32
	lens    [numLengthSymbols]uint8
	codes   [numLengthSymbols]code
	joined  [headerItems + 16]uint8
}

// headerEnd are eight values that are no code lengths.
const headerEnd = 0xf8f9fafbfcfdfeff

// headerItems is how many code lengths a header describes at most.
const headerItems = litLenCodes + distanceCodes

// plan computes the description of a pair of codes.
func (h *header) plan(lens *tokenLens, b *codeBuilder) {
	h.numLitLen = trimZeros(lens.litLen[:], endOfBlock+1)
	h.numDistance = trimZeros(lens.distance[:], 1)
	n := copy(h.joined[:], lens.litLen[:h.numLitLen])
	n += copy(h.joined[n:], lens.distance[:h.numDistance])

	h.items(n)
	b.build(h.lens[:], h.weights[:], headerLimit)
	b.codes(h.codes[:], h.lens[:])
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

// items describes the first n joined lengths.
func (h *header) items(n int) {
	// What is behind the lengths ends every run.
	binary.LittleEndian.PutUint64(h.joined[n:], headerEnd)
	binary.LittleEndian.PutUint64(h.joined[n+8:], headerEnd)
	h.numItems = 0
	for i := 0; i < n; {
		// Lengths that do not start a run of three are copied eight at a time.
		lens := binary.LittleEndian.Uint64(h.joined[i:])
		differs := (lens ^ binary.LittleEndian.Uint64(h.joined[i+1:])) |
			(lens ^ binary.LittleEndian.Uint64(h.joined[i+2:]))
		single := min(firstZeroByte(differs), n-i)
		binary.LittleEndian.PutUint64(h.symbols[h.numItems:], lens)
		binary.LittleEndian.PutUint64(h.extra[h.numItems:], 0)
		h.numItems += single
		i += single
		if single == 8 || i == n {
			continue
		}
		v, first := h.joined[i], i
		for i += minRepeat; h.joined[i] == v; i++ {
		}
		h.run(v, i-first)
	}
	// Neighbours are often alike. Two counters keep one count from waiting for the other.
	var odd [numLengthSymbols]uint32
	clear(h.weights[:])
	symbols := h.symbols[:h.numItems]
	for ; len(symbols) >= 2; symbols = symbols[2:] {
		h.weights[symbols[0]]++
		odd[symbols[1]]++
	}
	if len(symbols) == 1 {
		odd[symbols[0]]++
	}
	for sym, w := range odd {
		h.weights[sym] += w
	}
}

// firstZeroByte returns which byte of v, from the low end, is the first that is zero, or
// 8.
func firstZeroByte(v uint64) int {
	const ones = 0x0101010101010101
	return bits.TrailingZeros64((v-ones)&^v&(ones<<7)) / 8
}

// run describes a run of three or more equal lengths.
func (h *header) run(v uint8, length int) {
	if v == 0 {
		for ; length >= minZeroLong; length -= min(length, maxZeroLong) {
			h.add(repeatZeroLong, min(length, maxZeroLong)-minZeroLong)
		}
		if length >= minRepeat {
			h.add(repeatZero, length-minRepeat)
			return
		}
	} else {
		h.add(v, 0)
		length--
		for ; length >= minRepeat; length -= min(length, maxPrevious) {
			h.add(repeatPrevious, min(length, maxPrevious)-minRepeat)
		}
	}
	for ; length > 0; length-- {
		h.add(v, 0)
	}
}

func (h *header) add(sym uint8, extra int) {
	h.symbols[h.numItems], h.extra[h.numItems] = sym, uint8(extra)
	h.numItems++
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
func (h *header) write(w *bitWriter) {
	w.put(uint64(h.numLitLen-257)|uint64(h.numDistance-1)<<5|uint64(h.numLength-4)<<10, 14)
	for _, sym := range lengthSymbolOrder[:h.numLength] {
		w.put(uint64(h.lens[sym]), lengthCodeField)
	}
	extra := h.extra[:h.numItems]
	v, n := uint64(0), uint(0)
	for i, sym := range h.symbols[:h.numItems] {
		c := h.codes[sym]
		v |= (c.bits() | uint64(extra[i])<<(c.count()&63)) << (n & 63)
		n += c.count() + uint(repeatBits[sym])
		// An item takes at most headerLimit and seven bits.
		if i%4 == 3 {
			w.put(v, n)
			v, n = 0, 0
		}
	}
	w.put(v, n)
}
