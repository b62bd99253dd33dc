package deflate

// Sizes of the alphabets, and limits of RFC 1951.
const (
	NumLitLen     = 286 // literals 0-255, end of block 256, lengths 257-285
	NumDist       = 30
	NumCodeLen    = 19
	EndOfBlock    = 256
	MaxCodeBits   = 15
	maxHeaderBits = 7 // longest code of the code length alphabet
	MinMatch      = 3
	MaxMatch      = 258
)

// LengthBase and LengthExtra give the first match length of symbol 257+i and the
// number of extra bits that follow it.
var (
	LengthBase = [29]uint16{
		3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31,
		35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258,
	}
	LengthExtra = [29]uint8{
		0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2,
		3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0,
	}
)

// DistBase and DistExtra give the first distance of symbol i and the number of
// extra bits that follow it.
var (
	DistBase = [NumDist]uint16{
		1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513,
		769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577,
	}
	DistExtra = [NumDist]uint8{
		0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8,
		9, 9, 10, 10, 11, 11, 12, 12, 13, 13,
	}
)

// LengthSymbol returns the symbol, from 257, for a match length of 3 to 258.
func LengthSymbol(length int) int {
	for i := len(LengthBase) - 1; ; i-- {
		if length >= int(LengthBase[i]) {
			return 257 + i
		}
	}
}

// DistSymbol returns the symbol for a distance of 1 to 32768.
func DistSymbol(dist int) int {
	for i := NumDist - 1; ; i-- {
		if dist >= int(DistBase[i]) {
			return i
		}
	}
}

// FixedLitLenBits returns the code length of a literal or length symbol in a
// block with fixed tables. Distances take 5 bits each there.
func FixedLitLenBits(sym int) uint8 {
	switch {
	case sym < 144:
		return 8
	case sym < 256:
		return 9
	case sym < 280:
		return 7
	}
	return 8
}
