//go:build !noasm

package deflate

import (
	"bytes"
	"slices"
	"testing"

	"github.com/vmferry/vmferry/internal/corpus"
)

// withoutAssembly runs f the way processors without AVX-512 would. Where this
// processor is one of them, the comparisons below compare Go with Go; the
// hash in TestDeflate_StreamsAreTheSameOnEveryProcessor still holds it to the others.
func withoutAssembly(f func()) {
	saved := useAVX512
	useAVX512 = false
	defer func() { useAVX512 = saved }()
	f()
}

func TestKernels_MatchersAgree(t *testing.T) {
	a, b := new(matcher), new(matcher)
	for _, p := range testPages(t) {
		for _, lazy := range []bool{false, true} {
			a.load(p.data)
			a.find(lazy)
			b.load(p.data)
			b.findGeneric(lazy)
			if !slices.Equal(a.tokens(), b.tokens()) {
				t.Fatalf("%s, lazy %v: %d tokens, in Go %d, or others", p.name, lazy, a.ntok, b.ntok)
			}
			covered := 0
			for _, tok := range a.tokens() {
				covered++
				if tok.isMatch() {
					covered += int(tok.length3()) + 2
				}
			}
			if covered != len(p.data) {
				t.Fatalf("%s, lazy %v: tokens cover %d of %d bytes", p.name, lazy, covered, len(p.data))
			}
		}
	}
}

// tokenRuns returns sequences of tokens that no matcher would emit, of every
// length up to a few vectors.
func tokenRuns() [][]token {
	var all []token
	for length := 3; length <= maxMatch; length++ {
		all = append(all, token(length&0xff), matchToken(length, 1+length*13%maxDistance))
	}
	for distance := 1; distance <= maxDistance; distance++ {
		all = append(all, matchToken(3+distance%256, distance))
	}
	for range 4 {
		for b := range token(256) {
			all = append(all, b)
		}
	}
	// Pairs of the longest there are.
	for range 64 {
		all = append(all, matchToken(257, 4000))
	}
	runs := [][]token{all}
	for n := range 70 {
		runs = append(runs, all[500:500+n])
	}
	return runs
}

// testCodes returns codes from the plainest to the most lopsided.
func testCodes() []*tokenCodes {
	var all []*tokenCodes
	var b codeBuilder
	for skew := range 6 {
		lens, weights := new(tokenLens), new(weights)
		for sym := range numLitLen {
			weights.litLen[sym] = 1 + uint32(sym*sym*7%1000)>>(2*skew)
		}
		for sym := range numDistance {
			weights.distance[sym] = 1 << (sym * skew % 20)
		}
		b.build(lens.litLen[:], weights.litLen[:], codeLimit)
		b.build(lens.distance[:], weights.distance[:], distanceLimit)
		codes := new(tokenCodes)
		codes.assign(lens, new(canonical))
		all = append(all, codes)
	}
	return append(all, fixedCodes)
}

func TestKernels_TokenWritersAgree(t *testing.T) {
	for c, codes := range testCodes() {
		for _, run := range tokenRuns() {
			for _, lead := range []uint{0, 1, 5, 7, 13, 55} {
				var a, b, f bitWriter
				for _, w := range []*bitWriter{&a, &b, &f} {
					w.put(0x2aaaaaaaaaaaaa>>(54-min(lead, 54)), lead)
				}
				// The slice behind the tokens must not matter.
				codes.putTokens(&a, append(slices.Clone(run), 7, 7)[:len(run)])
				codes.put(&b, run)
				a.finish()
				b.finish()
				if !bytes.Equal(a.bytes(), b.bytes()) {
					t.Fatalf("codes %d: %d tokens after %d bits differ", c, len(run), lead)
				}
				if codes == fixedCodes {
					putFixed(&f, run)
					f.finish()
					if !bytes.Equal(f.bytes(), b.bytes()) {
						t.Fatalf("fixed code: %d tokens after %d bits differ", len(run), lead)
					}
				}
			}
		}
	}
}

func TestKernels_WeighingAgrees(t *testing.T) {
	for _, run := range tokenRuns() {
		var a, b weights
		a.count(run)
		withoutAssembly(func() { b.count(run) })
		if a.litLen != b.litLen || a.distance != b.distance || a.extraBits != b.extraBits {
			t.Fatalf("%d tokens weigh differently", len(run))
		}
	}
}

func TestKernels_DecodersAgree(t *testing.T) {
	a, b := NewDecoder(), NewDecoder()
	check := func(stream []byte, size int) {
		t.Helper()
		outA, outB := make([]byte, size), make([]byte, size)
		errA := a.Inflate(outA, stream)
		var errB error
		withoutAssembly(func() { errB = b.Inflate(outB, stream) })
		if (errA == nil) != (errB == nil) || !bytes.Equal(outA, outB) {
			t.Fatalf("page of %d bytes: error %v, in Go %v", size, errA, errB)
		}
	}
	for _, p := range testPages(t) {
		for _, mode := range modes {
			stream := make([]byte, len(p.data)+64)
			stream = stream[:NewEncoder(mode).Deflate(stream, p.data)]
			check(stream, len(p.data))
			check(stream, len(p.data)-1)
			check(stream, len(p.data)+1)
			check(stream[:len(stream)/2], len(p.data))
			flip := 3 + len(p.data)*31%max(1, len(stream)-3)
			if flip < len(stream) {
				stream[flip] ^= 0x10
				check(stream, len(p.data))
			}
		}
	}
}

func TestKernels_ZeroTestsAgree(t *testing.T) {
	page := make([]byte, 4*zeroStep)
	for i := range page {
		page[i] = 1
		for n := 0; n <= len(page); n += zeroStep {
			if got, want := zeroSteps(page[:n]), zeroStepsGeneric(page[:n]); got != want {
				t.Fatalf("byte %d of %d: %v, in Go %v", i, n, got, want)
			}
		}
		page[i] = 0
	}
	corpus.Fill(page, corpus.Random, 1)
	if zeroSteps(page) || zeroStepsGeneric(page) {
		t.Error("noise taken for zeros")
	}
}

func TestKernels_SortingAgrees(t *testing.T) {
	lens := make([]uint8, litLenCodes)
	var a, b canonical
	for round := range 200 {
		corpus.Fill(lens, corpus.Random, uint64(round))
		for i := range lens {
			// Sometimes all lengths, sometimes few, sometimes many zeros.
			lens[i] = lens[i] >> 4 & uint8(round|1)
			if lens[i] > uint8(round/8) {
				lens[i] = 0
			}
		}
		a.sort(lens)
		b.sortGeneric(lens)
		used := 0
		for _, n := range b.count {
			used += int(n)
		}
		if a.count != b.count || !slices.Equal(a.sorted[:used], b.sorted[:used]) {
			t.Fatalf("round %d: %v sorted differently", round, lens)
		}
	}
}
