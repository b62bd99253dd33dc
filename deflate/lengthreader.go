package deflate

// lengthReader reads the header of a dynamic block.
type lengthReader struct {
	code struct {
		table [1 << headerLimit]uint32
		longCode
	}
	lens    [numLitLen + numDistance]uint8
	symbols [numLengthSymbols]uint8
}

// lengthEntries are the entries of the code length symbols.
var lengthEntries = func() (t [numLengthSymbols]uint32) {
	for sym := range t {
		t[sym] = uint32(sym)<<entryValue | uint32(repeatBits[sym])
	}
	return t
}()

const cutLengths = "the stream ends within a block's code lengths"

// read reads both codes of a block, or says what is wrong with them.
func (l *lengthReader) read(in *bitReader, c *blockCode) string {
	numLitLens := int(in.take(5)) + endOfBlock + 1
	numDistances := int(in.take(5)) + 1
	num := int(in.take(4)) + 4
	if numLitLens > numLitLen || numDistances > numDistance {
		return "more code lengths than there are symbols"
	}
	clear(l.symbols[:])
	for _, sym := range lengthSymbolOrder[:num] {
		l.symbols[sym] = uint8(in.take(lengthCodeField))
	}
	if in.overrun() {
		return cutLengths
	}
	if !l.code.build(l.code.table[:], l.symbols[:], lengthEntries[:], headerLimit) || l.code.room > 0 {
		return "code of code lengths over-subscribed or incomplete"
	}
	lens := l.lens[:numLitLens+numDistances]
	if problem := l.fill(in, lens); problem != "" {
		return problem
	}
	if in.overrun() {
		return cutLengths
	}
	if lens[endOfBlock] == 0 {
		return "block without an end-of-block code"
	}
	return c.build(lens[:numLitLens], lens[numLitLens:])
}

// fill decodes all of lens.
func (l *lengthReader) fill(in *bitReader, lens []uint8) string {
	for i := 0; i < len(lens); {
		if !in.ensure() {
			return cutLengths
		}
		e := l.code.table[in.acc&(1<<headerLimit-1)]
		if e&entrySpecial != 0 {
			return "bit pattern without meaning among the code lengths"
		}
		sym, count := uint8(e>>entryValue), in.extra(e)
		in.drop(uint(e) & entryCount)
		var value uint8
		switch sym {
		case repeatPrevious:
			if i == 0 {
				return "code length repeated before the first"
			}
			value = lens[i-1]
			count += minRepeat
		case repeatZero:
			count += minRepeat
		case repeatZeroLong:
			count += minZeroLong
		default:
			value, count = sym, 1
		}
		if count > len(lens)-i {
			return "code length repeated past the last"
		}
		for range count {
			lens[i] = value
			i++
		}
	}
	return ""
}
