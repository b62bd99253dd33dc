package deflate

import "math/bits"

// Codes up to these lengths are looked up; longer ones are rare and decoded bit by bit.
const (
	litLenBits   = 11
	distanceBits = 9

	litLenMask   = 1<<litLenBits - 1
	distanceMask = 1<<distanceBits - 1
)

// A table entry describes the symbol of the next bits:
//
//	bits 0..5    how many bits it takes, extra bits included
//	bits 8..11   how many of these are the code
//	bits 16..30  the literal, or the least length or distance, or a special value
//	bit 7        set for special
//	bit 31       set for literals
//
// The assembly uses this layout.
const (
	entryCount   = 0x3f
	entryCode    = 8
	entrySpecial = 1 << 7
	entryValue   = 16
	entryLiteral = 1 << 31
)

// Special values.
const (
	specialEnd     = iota // end of block
	specialLong           // the code is longer than the table's index
	specialInvalid        // no code, or a symbol that deflate does not use
)

const entryInvalid = specialInvalid<<entryValue | entrySpecial

// litLenEntries and distanceEntries hold each symbol's entry without the code's length.
var (
	litLenEntries   = makeLitLenEntries()
	distanceEntries = makeDistanceEntries()
)

func makeLitLenEntries() (t [288]uint32) {
	for sym := range endOfBlock {
		t[sym] = uint32(sym)<<entryValue | entryLiteral
	}
	t[endOfBlock] = specialEnd<<entryValue | entrySpecial
	t[numLitLen], t[numLitLen+1] = entryInvalid, entryInvalid
	for length3 := maxMatch - 3; length3 >= 0; length3-- {
		sym, extraBits, _ := lengthSymbol(uint(length3))
		t[endOfBlock+sym] = uint32(length3+3)<<entryValue | uint32(extraBits)
	}
	return t
}

func makeDistanceEntries() (t [32]uint32) {
	t[numDistance], t[numDistance+1] = entryInvalid, entryInvalid
	for sym := range uint32(numDistance) {
		extraBits, base := uint32(0), sym
		if sym >= 4 {
			extraBits = sym/2 - 1
			base = (2 + sym%2) << extraBits
		}
		t[sym] = (base+1)<<entryValue | extraBits
	}
	return t
}

// blockCode is the pair of codes of a block.
type blockCode struct {
	litLen   litLenTable
	distance distanceTable
	// nineBits is zero except for the fixed code. There bit i is set if a literal whose
	// first five bits are i takes nine bits, not eight.
	nineBits uint32
	// notLiteral has, for the fixed code, bit i set if what begins with these five bits is
	// no literal.
	notLiteral uint32
}

type litLenTable struct {
	table [1 << litLenBits]uint32
	longCode
}

type distanceTable struct {
	table [1 << distanceBits]uint32
	longCode
}

var fixedCode = makeFixedCode()

func makeFixedCode() *blockCode {
	c := new(blockCode)
	c.build(sortOnly, fixedLens.litLen[:], fixedLens.distance[:])
	for i := range 32 {
		switch e := c.litLen.table[i]; {
		case e&entryLiteral == 0:
			c.notLiteral |= 1 << i
		case e&entryCount == 9:
			c.nineBits |= 1 << i
		}
	}
	return c
}

// build makes both tables, or returns what is wrong with the code lengths.
func (c *blockCode) build(r *routines, litLen, distance []uint8) string {
	if !c.litLen.build(r, c.litLen.table[:], litLen, litLenEntries[:], litLenBits) {
		return "literal and length code over-subscribed or incomplete"
	}
	if !c.distance.build(r, c.distance.table[:], distance, distanceEntries[:], distanceBits) {
		return "distance code over-subscribed or incomplete"
	}
	return ""
}

// longCode decodes a canonical code bit by bit.
type longCode struct {
	canonical
	entries []uint32
	room    int // unused bit patterns, in units of the longest code
}

// build fills in c and table, which is indexed by index bits. It returns false if the
// lengths make no prefix code or leave bit patterns unused. It accepts a single code of
// one bit and no code at all, because deflate encoders emit them.
func (c *longCode) build(r *routines, table []uint32, lens []uint8, entries []uint32, index int) bool {
	c.entries = entries
	r.sort(&c.canonical, lens)
	c.room = 1
	total := 0
	for n := 1; n <= maxCodeBits; n++ {
		total += int(c.count[n])
		c.room = c.room<<1 - int(c.count[n])
		if c.room < 0 {
			return false
		}
	}
	if c.room > 0 {
		if total > 1 || total == 1 && c.count[1] != 1 {
			return false
		}
		for i := range table {
			table[i] = entryInvalid
		}
	}
	c.fill(table, index)
	return true
}

// fill writes each code to the places of the table whose index ends in the reversed
// code. The table doubles by a copy for each further bit of code length, so that every
// code is written once.
func (c *longCode) fill(table []uint32, index int) {
	v, done := 0, 0
	for n := 1; n <= maxCodeBits; n++ {
		symbols := c.sorted[done : done+int(c.count[n])]
		done += len(symbols)
		if n <= index {
			length := uint32(n)<<entryCode + uint32(n)
			for _, sym := range symbols {
				table[reversed[v<<(litLenBits-n)&litLenMask]] = c.entries[sym] + length
				v++
			}
		} else {
			for range symbols {
				table[reversed[v>>(n-index)<<(litLenBits-index)&litLenMask]] = specialLong<<entryValue | entrySpecial
				v++
			}
		}
		v <<= 1
		if n < index && done > 0 {
			copy(table[1<<n:2<<n], table[:1<<n])
		}
	}
}

// reversed has the index's litLenBits bits in reverse order.
var reversed = func() (t [1 << litLenBits]uint16) {
	for i := range t {
		t[i] = bits.Reverse16(uint16(i)) >> (16 - litLenBits)
	}
	return t
}()

// next decodes one symbol of at most maxCodeBits valid bits and returns its entry,
// which counts the extra bits only. ok is false for a bit pattern that is no code, and
// for a symbol that deflate does not use.
func (c *longCode) next(in *bitReader) (e uint32, ok bool) {
	code, first, index := 0, 0, 0
	for n := 1; n <= maxCodeBits; n++ {
		code |= int(in.acc >> (n - 1) & 1)
		count := int(c.count[n])
		if code-first < count {
			in.drop(uint(n))
			e = c.entries[c.sorted[index+code-first]]
			return e, e != entryInvalid
		}
		index += count
		first = (first + count) << 1
		code <<= 1
	}
	return 0, false
}
