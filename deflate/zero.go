package deflate

import "encoding/binary"

// zeroStep is how many bytes are read between two branches: enough to make the branch
// cheap, few enough to end early for a page that is not zero.
const zeroStep = 512

// IsZero reports whether all bytes of page are zero. For most other pages the first
// word decides; the rest end at the first 512 bytes that are not all zero.
func IsZero(page []byte) bool {
	if len(page) >= 8 && binary.LittleEndian.Uint64(page) != 0 {
		return false
	}
	whole := len(page) &^ (zeroStep - 1)
	return active.Load().zeroSteps(page[:whole]) && zeroTail(page[whole:])
}

// zeroTail is IsZero for fewer bytes than zeroStep.
func zeroTail(p []byte) bool {
	for ; len(p) >= 8; p = p[8:] {
		if binary.LittleEndian.Uint64(p) != 0 {
			return false
		}
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// zeroStepsGo is IsZero for multiples of zeroStep bytes.
func zeroStepsGo(p []byte) bool {
	for ; len(p) >= zeroStep; p = p[zeroStep:] {
		var or uint64
		for q := p[:zeroStep]; len(q) >= 32; q = q[32:] {
			or |= binary.LittleEndian.Uint64(q) | binary.LittleEndian.Uint64(q[8:]) |
				binary.LittleEndian.Uint64(q[16:]) | binary.LittleEndian.Uint64(q[24:])
		}
		if or != 0 {
			return false
		}
	}
	return true
}

// ZeroPages reports for each page of pageSize bytes in mem whether it is zero, and
// returns how many are. zero must have an element for every page. A rest of mem shorter
// than a page is ignored. It panics if pageSize is not positive or zero is too short.
func ZeroPages(mem []byte, pageSize int, zero []bool) int {
	if pageSize <= 0 {
		panic("deflate: page size must be positive")
	}
	pages := len(mem) / pageSize
	zero = zero[:pages]
	count := 0
	for i := range zero {
		zero[i] = IsZero(mem[i*pageSize : (i+1)*pageSize])
		if zero[i] {
			count++
		}
	}
	return count
}
