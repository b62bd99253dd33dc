//go:build !noasm

package deflate

import (
	"bytes"
	"testing"
)

// TestFast_GroupsAgree compares the AVX2 loop of fast with its reference in Go, after each
// call, so that a difference shows where it arises.
func TestFast_GroupsAgree(t *testing.T) {
	if !hasAVX2 {
		return // TestTiers_AreListed says so
	}
	a, b := NewEncoder(Fast), NewEncoder(Fast)
	for _, p := range testPages(t) {
		if len(p.data) > maxDistance {
			continue // not for groupsAVX2
		}
		for _, e := range []*Encoder{a, b} {
			e.match.load(p.data)
			e.out.reset()
			e.fast.limit = 2 * len(p.data)
		}
		calls := 0
		a.encodeFast(func(a *Encoder) {
			groupsAVX2(a, fixedWords)
			stop := calls
			calls++
			// The same page again, up to the same call.
			b.out.reset()
			at := 0
			b.encodeFast(func(b *Encoder) {
				groupsGo(b)
				if at == stop {
					if a.fast != b.fast || a.out.acc != b.out.acc || a.out.count != b.out.count ||
						!bytes.Equal(a.out.bytes(), b.out.bytes()) {
						t.Fatalf("%s: call %d: position %d, in Go %d, or other bits", p.name, stop, a.fast.pos, b.fast.pos)
					}
					b.fast.last = 0 // end here
				}
				at++
			})
		})
	}
}
