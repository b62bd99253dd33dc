package iaamodel

import (
	"encoding/binary"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/internal/deflate"
)

// aecs is a compress AECS as the device reads it.
type aecs struct {
	head     []byte // accumulator
	headBits int
	litlen   [deflate.NumLitLen]uint32
	dist     [deflate.NumDist]uint32
}

// parse reads the tables; an accumulator that claims more bits than it has, or
// a code longer than 15 bits, is an AECS error.
func (a *aecs) parse(mem []byte) bool {
	a.headBits = int(binary.LittleEndian.Uint32(mem[iaa.AECSValidBits:]))
	a.head = mem[iaa.AECSAccumulator:][:iaa.AECSAccumulated]
	if a.headBits < 0 || a.headBits > 8*iaa.AECSAccumulated {
		return false
	}
	ok := true
	load := func(dst []uint32, off int) {
		for i := range dst {
			dst[i] = binary.LittleEndian.Uint32(mem[off+4*i:])
			ok = ok && dst[i]>>15 <= deflate.MaxCodeBits
		}
	}
	load(a.litlen[:], iaa.AECSLitLen)
	load(a.dist[:], iaa.AECSDist)
	return ok
}
