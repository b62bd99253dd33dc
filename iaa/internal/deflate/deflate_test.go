package deflate

import (
	"bytes"
	"compress/flate"
	"io"
	"math/rand/v2"
	"testing"
)

func TestSymbols(t *testing.T) {
	for length := MinMatch; length <= MaxMatch; length++ {
		i := LengthSymbol(length) - 257
		rest := length - int(LengthBase[i])
		if rest < 0 || rest >= 1<<LengthExtra[i] {
			t.Errorf("length %d: symbol %d leaves %d for %d extra bits", length, 257+i, rest, LengthExtra[i])
		}
	}
	for dist := 1; dist <= 32768; dist++ {
		s := DistSymbol(dist)
		rest := dist - int(DistBase[s])
		if rest < 0 || rest >= 1<<DistExtra[s] {
			t.Errorf("distance %d: symbol %d leaves %d for %d extra bits", dist, s, rest, DistExtra[s])
		}
	}
}

// kraft returns the sum of 2^(limit-length), which is 1<<limit in a complete code.
func kraft(lengths []uint8, limit int) int {
	sum := 0
	for _, l := range lengths {
		if l > 0 {
			sum += 1 << (limit - int(l))
		}
	}
	return sum
}

func TestCodeLengthsAreCompleteAndLimited(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 2000 {
		limit := 7 + rng.IntN(9)
		n := 2 + rng.IntN(min(NumLitLen, 1<<limit)-2)
		freq := make([]uint32, n)
		used := 0
		for i := range freq {
			switch rng.IntN(3) {
			case 0:
				freq[i] = 1 << rng.IntN(31) // wildly uneven: forces the limit
			case 1:
				freq[i] = rng.Uint32N(50)
			}
			if freq[i] > 0 {
				used++
			}
		}
		lengths := make([]uint8, n)
		CodeLengths(lengths, freq, limit)
		for i, l := range lengths {
			if int(l) > limit || (l == 0) != (freq[i] == 0) {
				t.Fatalf("round %d: symbol %d, frequency %d, got length %d, limit %d", round, i, freq[i], l, limit)
			}
		}
		if got := kraft(lengths, limit); used > 1 && got != 1<<limit {
			t.Fatalf("round %d: Kraft sum %d, want %d", round, got, 1<<limit)
		}
	}
}

func TestCodeLengthsKnownOptimum(t *testing.T) {
	lengths := make([]uint8, 5)
	CodeLengths(lengths, []uint32{1, 1, 2, 4, 8}, 15)
	if want := []uint8{4, 4, 3, 2, 1}; !bytes.Equal(lengths, want) {
		t.Errorf("got %v, want %v", lengths, want)
	}
	CodeLengths(lengths, []uint32{0, 0, 9, 0, 0}, 15)
	if want := []uint8{0, 0, 1, 0, 0}; !bytes.Equal(lengths, want) {
		t.Errorf("one symbol: got %v, want %v", lengths, want)
	}
}

// TestHeaderIsReadByFlate writes blocks of literals and lets compress/flate judge
// header and codes.
func TestHeaderIsReadByFlate(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for round := range 300 {
		alphabet := 1 + rng.IntN(256)
		data := make([]byte, 1+rng.IntN(5000))
		for i := range data {
			data[i] = byte(rng.IntN(1 + rng.IntN(alphabet)))
		}
		var h Histogram
		for _, b := range data {
			h.LitLen[b]++
		}
		h.LitLen[EndOfBlock] = 1
		var tables Tables
		tables.Build(&h)

		buf := make([]byte, 2*len(data)+1000)
		w := NewBitWriter(buf)
		tables.WriteHeader(w, true)
		header := 8*w.n + int(w.accBits)
		for _, b := range data {
			w.Code(uint32(tables.LitLenCode[b]), uint(tables.LitLenBits[b]))
		}
		w.Code(uint32(tables.LitLenCode[EndOfBlock]), uint(tables.LitLenBits[EndOfBlock]))
		total := w.Flush()
		if want := header + tables.DataBits(&h); total != want {
			t.Fatalf("round %d: %d bits written, DataBits foretold %d", round, total, want)
		}
		got, err := io.ReadAll(flate.NewReader(bytes.NewReader(buf[:w.Len()])))
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("round %d: flate gives %d bytes, error %v; want %d bytes", round, len(got), err, len(data))
		}
	}
}

func TestBitWriterStopsAtItsBuffer(t *testing.T) {
	buf := []byte{0, 0, 0xaa}
	w := NewBitWriter(buf[:2])
	w.Bits(0xffffff, 24)
	if !w.Overflow() || w.Len() != 2 || buf[2] != 0xaa {
		t.Errorf("overflow %v, length %d, next byte %#x", w.Overflow(), w.Len(), buf[2])
	}
}
