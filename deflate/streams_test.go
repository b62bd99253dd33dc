package deflate

import "bytes"

// build assembles streams by hand.
type build struct{ bitWriter }

func newBuild() *build { return new(build) }

// code appends a Huffman code, most significant bit first.
func (b *build) code(v, n int) *build {
	for n--; n >= 0; n-- {
		b.put(uint64(v>>n&1), 1)
	}
	return b
}

func (b *build) raw(v, n int) *build {
	b.put(uint64(v), uint(n))
	return b
}

// fixedSymbol appends a literal or length symbol in the fixed code.
func (b *build) fixedSymbol(sym int) *build {
	switch {
	case sym < 144:
		return b.code(0x30+sym, 8)
	case sym < 256:
		return b.code(0x190+sym-144, 9)
	case sym < 280:
		return b.code(sym-256, 7)
	}
	return b.code(0xc0+sym-280, 8)
}

// fixedMatch appends a match in the fixed code.
func (b *build) fixedMatch(length, distance int) *build {
	sym, bits, extra := lengthSymbol(uint(length - 3))
	b.fixedSymbol(endOfBlock+int(sym)).raw(int(extra), int(bits))
	sym, bits, extra = distanceSymbol(uint(distance - 1))
	return b.code(int(sym), 5).raw(int(extra), int(bits))
}

func (b *build) stream() []byte {
	b.finish()
	return bytes.Clone(b.bytes())
}

// dynamicHeader writes a dynamic block's header with every length spelled out.
func (b *build) dynamicHeader(litLen, distance []uint8) *build {
	b.raw(blockFinal|blockDynamic, 3).raw(len(litLen)-257, 5).raw(len(distance)-1, 5).raw(15, 4)
	// Code lengths 0 to 15 in four bits each.
	for _, sym := range lengthSymbolOrder {
		n := 4
		if sym > maxCodeBits {
			n = 0
		}
		b.raw(n, 3)
	}
	for _, n := range append(bytes.Clone(litLen), distance...) {
		b.code(int(n), 4)
	}
	return b
}

// canonicalCodes returns the codes of the given lengths, not reversed.
func canonicalCodes(lens []uint8) []int {
	codes := make([]int, len(lens))
	code := 0
	for n := uint8(1); n <= maxCodeBits; n++ {
		code <<= 1
		for sym, l := range lens {
			if l == n {
				codes[sym] = code
				code++
			}
		}
	}
	return codes
}
