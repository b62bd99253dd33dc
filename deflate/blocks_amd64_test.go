//go:build !noasm

package deflate

import (
	"bytes"
	"slices"
	"testing"
)

// TestBlocks_MatchersAgree compares the matcher in blocks of 64 positions with its
// reference in Go.
func TestBlocks_MatchersAgree(t *testing.T) {
	if !hasAVX512 {
		return // TestTiers_AreListed says so
	}
	a, b := new(matcher), new(matcher)
	for _, p := range testPages(t) {
		for _, lazy := range []bool{false, true} {
			a.load(p.data)
			findTokensAVX512(a, lazy)
			b.load(p.data)
			b.findBlocks(lazy)
			if !slices.Equal(a.tokens(), b.tokens()) {
				t.Fatalf("%s, lazy %v: %d tokens, in Go %d, or others", p.name, lazy, a.ntok, b.ntok)
			}
		}
	}
}

// TestBlocks_FixedWritersAgree compares the writer of the fixed code with its reference
// in Go.
func TestBlocks_FixedWritersAgree(t *testing.T) {
	if !hasAVX512 {
		return // TestTiers_AreListed says so
	}
	for _, run := range tokenRuns() {
		for _, lead := range []uint{0, 1, 5, 7, 13, 55} {
			var a, b bitWriter
			for _, w := range []*bitWriter{&a, &b} {
				w.put(0x2aaaaaaaaaaaaa>>(54-min(lead, 54)), lead)
			}
			putFixedAVX512(&a, run)
			fixedCodes.putGo(&b, run)
			a.finish()
			b.finish()
			if !bytes.Equal(a.bytes(), b.bytes()) {
				t.Fatalf("%d tokens after %d bits differ", len(run), lead)
			}
		}
	}
}

// TestBlocks_CountingAgrees compares the counting of tokens with its reference in Go.
func TestBlocks_CountingAgrees(t *testing.T) {
	if !hasAVX512 {
		return // TestTiers_AreListed says so
	}
	for _, run := range tokenRuns() {
		var a, b weights
		countAVX512(&a, run)
		b.add(run)
		if a.litLen != b.litLen || a.distance != b.distance {
			t.Fatalf("%d tokens weigh differently", len(run))
		}
	}
}
