package deflate

import "encoding/binary"

// lengthReader reads the header of a dynamic block.
type lengthReader struct {
	code    lengthTable
	symbols [numLengthSymbols]uint8
	// litLen are the lengths of the first code, zeros behind.
	litLen [litLenCodes]uint8
	// lens are all lengths in the order of the header. It has room for the longest run
	// behind the last length, and for the whole words in which runs are written.
	lens [numLitLen + numDistance + maxZeroLong + runStep]uint8
}

// runStep is how many lengths of a run are written at once.
const runStep = 16

type lengthTable struct {
	table [1 << headerLimit]uint32
	longCode
}

// The entry of a code length symbol has the counts of bits as other entries do, and
//
//	bit 6        set if it repeats the previous length
//	bits 12..15  the length otherwise
//	bits 16..22  a mask of its extra bits, which say how many more times it stands for
//	bits 24..31  the least number of times
const (
	lengthRepeats = 6
	lengthValue   = 12
	lengthExtra   = 16
	lengthLeast   = 24
)

var lengthEntries = func() (t [numLengthSymbols]uint32) {
	for sym := range uint32(maxCodeBits + 1) {
		t[sym] = 1<<lengthLeast | sym<<lengthValue
	}
	t[repeatPrevious] = minRepeat<<lengthLeast | 1<<lengthRepeats
	t[repeatZero] = minRepeat << lengthLeast
	t[repeatZeroLong] = minZeroLong << lengthLeast
	for sym, n := range repeatBits {
		t[sym] |= (1<<n-1)<<lengthExtra | uint32(n)
	}
	return t
}()

const cutLengths = "the stream ends within a block's code lengths"

// read reads both codes of a block. It returns what is wrong with them, or an empty
// string.
func (l *lengthReader) read(r *routines, in *bitReader, c *blockCode) string {
	numLitLens := int(in.take(5)) + endOfBlock + 1
	numDistances := int(in.take(5)) + 1
	num := int(in.take(4)) + 4
	if numLitLens > numLitLen || numDistances > numDistance {
		return "more code lengths than there are symbols"
	}
	clear(l.symbols[:])
	for order := lengthSymbolOrder[:num]; len(order) > 0; {
		// As many as the 48 bits hold that ensure gives.
		part := order[:min(len(order), 48/lengthCodeField)]
		order = order[len(part):]
		if !in.ensure() {
			return cutLengths
		}
		acc := in.acc
		for _, sym := range part {
			l.symbols[sym] = uint8(acc & (1<<lengthCodeField - 1))
			acc >>= lengthCodeField
		}
		in.drop(uint(len(part)) * lengthCodeField)
	}
	if in.overrun() {
		return cutLengths
	}
	if !l.code.build(r, l.code.table[:], l.symbols[:], lengthEntries[:], headerLimit) || l.code.room > 0 {
		return "code of code lengths over-subscribed or incomplete"
	}
	if problem := l.fill(in, numLitLens+numDistances); problem != "" {
		return problem
	}
	if in.overrun() {
		return cutLengths
	}
	if l.lens[endOfBlock] == 0 {
		return "block without an end-of-block code"
	}
	clear(l.litLen[copy(l.litLen[:], l.lens[:numLitLens]):])
	return c.build(r, l.litLen[:], l.lens[numLitLens:numLitLens+numDistances])
}

// fill decodes n code lengths. It handles all symbols alike, because a branch on the
// kind of symbol is mispredicted too often.
func (l *lengthReader) fill(in *bitReader, n int) string {
	if !in.ensure() {
		return cutLengths
	}
	if l.code.table[in.acc&(1<<headerLimit-1)]>>lengthRepeats&1 != 0 {
		return "code length repeated before the first"
	}
	table, lens := &l.code.table, &l.lens
	word := uint64(0) // the previous length in each byte
	for i := 0; i < n; {
		if !in.refill() && !(in.more() && in.refill()) {
			return cutLengths
		}
		// The 56 bits are enough for four symbols.
		acc, count := in.acc, uint64(in.count)
		for range 4 {
			e := uint64(table[acc&(1<<headerLimit-1)])
			run := int(e>>lengthLeast + acc>>(e>>entryCode&maxCodeBits)&(e>>lengthExtra&0x7f))
			acc >>= e & entryCount
			count -= e & entryCount
			word = e>>lengthValue&maxCodeBits*0x0101010101010101 | word&-(e>>lengthRepeats&1)
			to := (*[runStep]byte)(lens[i : i+runStep])
			binary.LittleEndian.PutUint64(to[:8], word)
			binary.LittleEndian.PutUint64(to[8:], word)
			for at := runStep; at < run; at += runStep {
				to := (*[runStep]byte)(lens[i+at : i+at+runStep])
				binary.LittleEndian.PutUint64(to[:8], word)
				binary.LittleEndian.PutUint64(to[8:], word)
			}
			if i += run; i >= n {
				break
			}
		}
		in.acc, in.count = acc, uint(count)
		if i > n {
			return "code length repeated past the last"
		}
	}
	return ""
}
