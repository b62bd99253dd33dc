package linkwire

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

func TestPair_KeepsEveryByte(t *testing.T) {
	all := []Level{LevelRaw, LevelDeflate, LevelZstd, LevelZstdBetter}
	for seed := range uint64(times(4, 40)) {
		for _, levels := range [][]Level{{LevelRaw}, {LevelDeflate}, {LevelZstd}, all} {
			for _, pageSize := range []int{4096, 1024, 65536} {
				t.Run(fmt.Sprint(seed, levels, pageSize), func(t *testing.T) {
					t.Parallel()
					rnd := rand.New(rand.NewPCG(seed, 1))
					stream := channelStream(rnd, 12, pageSize)
					mutate(rnd, stream)
					p := newPair(t, int64(rnd.IntN(3))<<20, pageSize)
					p.carry(t, rnd, stream, seed%2 == 1, levels...)
					if !bytes.Equal(p.out, stream) {
						t.Fatalf("%d bytes came out, %d went in, the first difference is at %d", len(p.out), len(stream), firstDifference(p.out, stream))
					}
				})
			}
		}
	}
}

// mutate changes a stream in one of the ways in which a stream is not QEMU's.
func mutate(rnd *rand.Rand, b []byte) {
	switch rnd.IntN(3) {
	case 0:
		for range 1 + rnd.IntN(4) {
			b[rnd.IntN(len(b))] ^= byte(1 << rnd.IntN(8))
		}
	case 1:
		for i := rnd.IntN(len(b)); i < len(b); i++ {
			b[i] = byte(rnd.Uint32())
		}
	}
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func TestPair_SendsDifferencesAndReferences(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	p := newPair(t, 16<<20, 4096)
	stream := channelStream(rnd, 60, 4096)
	p.carry(t, rnd, stream, false, LevelDeflate)
	if !bytes.Equal(p.out, stream) {
		t.Fatal("the bytes differ")
	}
	f := p.forms
	if f.Zero == 0 || f.Raw == 0 || f.Deflated == 0 || f.Difference == 0 || f.Reference == 0 {
		t.Errorf("forms %+v: want some of each", f)
	}
}

func TestSplitter_GivesAllBytesWithoutALink(t *testing.T) {
	for seed := range uint64(times(60, 2000)) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		stream := channelStream(rnd, 6, 4096)
		mutate(rnd, stream)
		stream = stream[:rnd.IntN(len(stream)+1)]
		got, err := NewSplitter(fragments(rnd, stream, true)).ReadAll()
		if err != nil || !bytes.Equal(got, stream) {
			t.Fatalf("seed %d: %d of %d bytes, error %v, first difference at %d", seed, len(got), len(stream), err, firstDifference(got, stream))
		}
	}
}
