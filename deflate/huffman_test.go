package deflate

import (
	"container/heap"
	"slices"
	"testing"
)

type weightHeap []uint64

func (h weightHeap) Len() int           { return len(h) }
func (h weightHeap) Less(i, j int) bool { return h[i] < h[j] }
func (h weightHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *weightHeap) Push(x any)        { *h = append(*h, x.(uint64)) }
func (h *weightHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// optimalCost is what Huffman's own algorithm costs, without a limit.
func optimalCost(weights []uint32) uint64 {
	var h weightHeap
	for _, w := range weights {
		if w > 0 {
			h = append(h, uint64(w))
		}
	}
	heap.Init(&h)
	var cost uint64
	for h.Len() > 1 {
		sum := heap.Pop(&h).(uint64) + heap.Pop(&h).(uint64)
		cost += sum
		heap.Push(&h, sum)
	}
	return cost
}

// limitedCost is the least cost with a limit, by package-merge.
func limitedCost(weights []uint32, limit int) uint64 {
	var leaves []uint64
	for _, w := range weights {
		if w > 0 {
			leaves = append(leaves, uint64(w))
		}
	}
	slices.Sort(leaves)
	list := slices.Clone(leaves)
	for range limit - 1 {
		var packed []uint64
		for i := 0; i+1 < len(list); i += 2 {
			packed = append(packed, list[i]+list[i+1])
		}
		list = append(packed, leaves...)
		slices.Sort(list)
	}
	var cost uint64
	for _, w := range list[:2*len(leaves)-2] {
		cost += w
	}
	return cost
}

const fibonacci = 3 // the shape of that name

// weightSets returns weights of every temper for n symbols.
func weightSets(n int) [][]uint32 {
	r := uint32(12345)
	next := func() uint32 { r = r*1664525 + 1013904223; return r >> 8 }
	var sets [][]uint32
	for shape := range 6 {
		set := make([]uint32, n)
		a, b := uint32(1), uint32(1)
		for i := range set {
			switch shape {
			case 0:
				set[i] = 1
			case 1:
				set[i] = next() % 100
			case 2:
				set[i] = next() % (1 + next()%3000)
			case fibonacci: // the deepest tree
				set[i] = a
				if a < 1<<14 {
					a, b = b, a+b
				}
			case 4:
				set[i] = 1 << (i % 16)
			case 5:
				set[i] = next() % 2 * (next() % 70)
			}
		}
		sets = append(sets, set)
	}
	return sets
}

func TestHuffman_CodesAreNearlyOptimal(t *testing.T) {
	var b codeBuilder
	for n := 2; n <= litLenCodes; n++ {
		for shape, weights := range weightSets(n) {
			for _, limit := range []int{headerLimit, distanceLimit, codeLimit, maxCodeBits} {
				// Each limit with as many symbols as it is used for.
				if limit == headerLimit && n > numLengthSymbols || limit == distanceLimit && n > distanceCodes {
					continue
				}
				lens := make([]uint8, n)
				b.build(lens, weights, limit)
				var cost uint64
				used, space, longest := 0, 0, uint8(0)
				for sym, l := range lens {
					if (l > 0) != (weights[sym] > 0) {
						used = 0
						break
					}
					if l > 0 {
						used++
						space += 1 << (maxCodeBits - l)
					}
					longest = max(longest, l)
					cost += uint64(l) * uint64(weights[sym])
				}
				if used < 2 {
					continue // codes of one or no symbol have a test of their own
				}
				if space != 1<<maxCodeBits || int(longest) > limit {
					t.Fatalf("%d symbols, shape %d, limit %d: no complete code within the limit", n, shape, limit)
				}
				best := limitedCost(weights, limit)
				if free := optimalCost(weights); best == free && cost != free {
					t.Fatalf("%d symbols, shape %d, limit %d: costs %d, Huffman's code %d", n, shape, limit, cost, free)
				}
				// Folding up what is too deep is not optimal, but close unless the
				// limit bites as hard as with Fibonacci numbers.
				slack := 1.05
				if shape == fibonacci {
					slack = 1.15
				}
				if float64(cost) > slack*float64(best) {
					t.Fatalf("%d symbols, shape %d, limit %d: costs %d, could be %d", n, shape, limit, cost, best)
				}
			}
		}
	}
}

func TestHuffman_CodesOfFewSymbols(t *testing.T) {
	var b codeBuilder
	lens := []uint8{9, 9, 9}
	b.build(lens, []uint32{0, 0, 0}, 11)
	if !slices.Equal(lens, []uint8{0, 0, 0}) {
		t.Errorf("no symbol: %v", lens)
	}
	b.build(lens, []uint32{0, 70000, 0}, 11)
	if !slices.Equal(lens, []uint8{0, 1, 0}) {
		t.Errorf("one symbol: %v", lens)
	}
}

func TestHuffman_CodesAreCanonical(t *testing.T) {
	// The example of RFC 1951, section 3.2.2.
	lens := []uint8{3, 3, 3, 3, 3, 2, 4, 4}
	want := []int{0b010, 0b011, 0b100, 0b101, 0b110, 0b00, 0b1110, 0b1111}
	codes := make([]code, len(lens))
	var b codeBuilder
	b.setLengths(lens)
	b.codes(codes, lens)
	for sym, c := range codes {
		got := 0
		for i := range c.count() {
			got = got<<1 | int(c.bits()>>i&1)
		}
		if got != want[sym] || c.count() != uint(lens[sym]) {
			t.Errorf("symbol %d: %b in %d bits, want %b", sym, got, c.count(), want[sym])
		}
	}
}

func TestHuffman_SymbolsRoundTrip(t *testing.T) {
	for length := 3; length <= maxMatch; length++ {
		sym, bits, extra := lengthSymbol(uint(length - 3))
		e := litLenEntries[endOfBlock+sym]
		if got := int(e>>entryValue) + int(extra); got != length || uint(e&entryCount) != bits {
			t.Errorf("length %d: symbol %d with %d extra bits means %d", length, sym, bits, got)
		}
	}
	for distance := 1; distance <= 32<<10; distance++ {
		sym, bits, extra := distanceSymbol(uint(distance - 1))
		e := distanceEntries[sym]
		if got := int(e>>entryValue) + int(extra); got != distance || uint(e&entryCount) != bits {
			t.Errorf("distance %d: symbol %d with %d extra bits means %d", distance, sym, bits, got)
		}
	}
}
