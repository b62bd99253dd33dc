package iaa

import (
	"encoding/binary"
	"fmt"

	"github.com/vmferry/vmferry/iaa/internal/deflate"
)

// Layout of the compress AECS (analytics engine configuration and state): what a
// COMPRESS descriptor reads as source 2, and of the histogram that a statistics
// pass writes. Sizes and offsets are bytes.
const (
	AECSSize          = 0x620
	AECSValidBits     = 0x1c // u32: bits in the accumulator that come before the data
	AECSAccumulator   = 0x20
	AECSAccumulated   = 256 // size of the accumulator
	AECSLitLen        = 0x120
	AECSDist          = 0x5a0
	HistogramSize     = 0x500
	HistogramDist     = 0x480
	aecsLengthShift   = 15
	fixedDistanceBits = 5
)

// tableEntry is a code as an AECS holds it; the code is not bit-reversed.
func tableEntry(code uint16, bits uint8) uint32 {
	return uint32(bits)<<aecsLengthShift | uint32(code)
}

// writeFixedAECS makes aecs the state of a final block with fixed tables. Jobs only
// read it, so all share one.
func writeFixedAECS(aecs []byte) {
	// The fixed code has two more symbols, which never occur but use codes.
	var bits [deflate.NumLitLen + 2]uint8
	var codes [deflate.NumLitLen + 2]uint16
	for s := range bits {
		bits[s] = deflate.FixedLitLenBits(s)
	}
	deflate.Codes(codes[:], bits[:])
	var t deflate.Tables
	copy(t.LitLenBits[:], bits[:])
	copy(t.LitLenCode[:], codes[:])
	for s := range t.DistBits {
		t.DistBits[s] = fixedDistanceBits
	}
	deflate.Codes(t.DistCode[:], t.DistBits[:])
	w := deflate.NewBitWriter(aecs[AECSAccumulator:][:AECSAccumulated])
	w.Bits(1|1<<1, 3) // BFINAL, BTYPE 01
	writeAECS(aecs, &t, w)
}

// writeDynamicAECS makes aecs the state of a final dynamic block for the histogram that
// a statistics pass of srcSize bytes has written. It returns false if fixed tables give
// a smaller block, or if the header does not fit.
func writeDynamicAECS(aecs, histogram []byte, srcSize int) (bool, error) {
	var h deflate.Histogram
	total := uint64(0)
	for s := range h.LitLen {
		h.LitLen[s] = binary.LittleEndian.Uint32(histogram[4*s:])
		total += uint64(h.LitLen[s])
	}
	h.LitLen[deflate.EndOfBlock] = 1 // not all devices count it
	for s := range h.Dist {
		h.Dist[s] = binary.LittleEndian.Uint32(histogram[HistogramDist+4*s:])
		total += uint64(h.Dist[s])
	}
	// Every symbol is at least one byte, and a match at least three.
	if total > uint64(srcSize)+1 {
		return false, fmt.Errorf("%w: histogram counts %d symbols in %d bytes", ErrRecord, total, srcSize)
	}
	var t deflate.Tables
	t.Build(&h)
	w := deflate.NewBitWriter(aecs[AECSAccumulator:][:AECSAccumulated])
	t.WriteHeader(w, true)
	header := writeAECS(aecs, &t, w)
	fixed := 3 + deflate.FixedBits(&h)
	return !w.Overflow() && header+t.DataBits(&h) < fixed, nil
}

// writeAECS fills in tables and the accumulator's length, and returns it.
func writeAECS(aecs []byte, t *deflate.Tables, w *deflate.BitWriter) int {
	bits := w.Flush()
	clear(aecs[:AECSAccumulator])
	binary.LittleEndian.PutUint32(aecs[AECSValidBits:], uint32(bits))
	clear(aecs[AECSLitLen:AECSSize])
	for s, n := range t.LitLenBits {
		binary.LittleEndian.PutUint32(aecs[AECSLitLen+4*s:], tableEntry(t.LitLenCode[s], n))
	}
	for s, n := range t.DistBits {
		binary.LittleEndian.PutUint32(aecs[AECSDist+4*s:], tableEntry(t.DistCode[s], n))
	}
	return bits
}
