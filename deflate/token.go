package deflate

import "math/bits"

// token is one step of a page: a literal byte, or a match with earlier bytes.
//
//	literal: the byte
//	match:   bit 31 set, length-3 in bits 16..23, distance-1 in bits 0..11
//
// The assembly uses this layout.
type token uint32

const (
	matchFlag   = 1 << 31
	lengthShift = 16

	minMatch    = 4 // deflate allows 3, but finding those costs more than they save
	maxMatch    = 258
	maxDistance = 4096 // the accelerator's window
)

func matchToken(length, distance int) token {
	return token(matchFlag | uint32(length-3)<<lengthShift | uint32(distance-1))
}

func (t token) isMatch() bool   { return t&matchFlag != 0 }
func (t token) length3() uint   { return uint(t>>lengthShift) & 0xff } // length-3
func (t token) distance1() uint { return uint(t) & 0xfff }             // distance-1

// Symbols of the literal and length alphabet.
const (
	endOfBlock  = 256
	numLitLen   = 286
	numDistance = 30
)

// lengthSymbol splits a match length, less 3, into the symbol's place after
// endOfBlock, the number of extra bits and their value.
func lengthSymbol(length3 uint) (sym, extraBits, extra uint) {
	if length3 == maxMatch-3 {
		return 29, 0, 0
	}
	if length3 < 8 {
		return 1 + length3, 0, 0
	}
	extraBits = uint(bits.Len(length3)) - 3
	return 1 + extraBits*4 + length3>>extraBits, extraBits, length3 & (1<<extraBits - 1)
}

// distanceSymbol splits a match distance, less 1, into its symbol, the number
// of extra bits and their value.
func distanceSymbol(distance1 uint) (sym, extraBits, extra uint) {
	if distance1 < 4 {
		return distance1, 0, 0
	}
	extraBits = uint(bits.Len(distance1)) - 2
	return extraBits*2 + distance1>>extraBits, extraBits, distance1 & (1<<extraBits - 1)
}
