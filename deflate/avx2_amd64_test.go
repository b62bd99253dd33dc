//go:build !noasm

package deflate

import (
	"slices"
	"testing"
)

// TestAVX2_MatchersAgree compares the tokens of Dense with those of the tier "go".
func TestAVX2_MatchersAgree(t *testing.T) {
	if !hasAVX2 {
		return // TestTiers_AreListed says so
	}
	a, b := new(matcher), new(matcher)
	for _, p := range testPages(t) {
		a.load(p.data)
		b.load(p.data)
		var s, w weights
		shrinks, want := findAVX2(a, &s), findLazyGo(b, &w)
		if shrinks != want {
			t.Fatalf("%s: %v, in Go %v", p.name, shrinks, want)
		}
		if !shrinks {
			continue
		}
		if !slices.Equal(a.tokens(), b.tokens()) {
			t.Fatalf("%s: %d tokens, in Go %d, or others", p.name, a.ntok, b.ntok)
		}
		if s.litLen != w.litLen || s.distance != w.distance {
			t.Fatalf("%s: the tokens weigh differently", p.name)
		}
	}
}
