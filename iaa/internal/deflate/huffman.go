package deflate

import (
	"cmp"
	"slices"
)

type leaf struct {
	freq uint32
	sym  uint16
}

// CodeLengths writes to lengths the code length of each symbol in an optimal
// prefix code for the histogram freq, none above limit bits. Symbols that do
// not occur get length 0. One symbol alone gets a code of one bit.
// limit must be large enough: 1<<limit >= len(freq).
func CodeLengths(lengths []uint8, freq []uint32, limit int) {
	clear(lengths)
	var store [NumLitLen]leaf
	leaves := store[:0]
	for s, f := range freq {
		if f > 0 {
			leaves = append(leaves, leaf{f, uint16(s)})
		}
	}
	switch len(leaves) {
	case 0:
		return
	case 1:
		lengths[leaves[0].sym] = 1
		return
	}
	slices.SortFunc(leaves, func(a, b leaf) int {
		if c := cmp.Compare(a.freq, b.freq); c != 0 {
			return c
		}
		return cmp.Compare(a.sym, b.sym)
	})
	perLength := limitDepths(treeDepths(leaves), limit)

	// Short codes go to the frequent symbols, which are at the end.
	next := len(leaves)
	for bits, n := range perLength {
		for ; n > 0; n-- {
			next--
			lengths[leaves[next].sym] = uint8(bits)
		}
	}
}

// treeDepths builds the Huffman tree of sorted leaves with the two-queue
// method and returns the depth of each leaf.
func treeDepths(leaves []leaf) []int {
	n := len(leaves)
	weight := make([]uint64, 0, 2*n)
	for _, l := range leaves {
		weight = append(weight, uint64(l.freq))
	}
	parent := make([]int, 2*n-1)
	nextLeaf, nextNode := 0, n
	smallest := func() int {
		if nextLeaf < n && (nextNode >= len(weight) || weight[nextLeaf] <= weight[nextNode]) {
			nextLeaf++
			return nextLeaf - 1
		}
		nextNode++
		return nextNode - 1
	}
	for len(weight) < 2*n-1 {
		a, b := smallest(), smallest()
		parent[a], parent[b] = len(weight), len(weight)
		weight = append(weight, weight[a]+weight[b])
	}
	depth := make([]int, 2*n-1)
	for i := 2*n - 3; i >= 0; i-- {
		depth[i] = depth[parent[i]] + 1
	}
	return depth[:n]
}

// limitDepths counts the leaves of each depth and makes the counts those of a
// complete code of at most limit bits: leaves that are too deep are lifted to
// the limit, and the room this takes is won back by pushing others down.
func limitDepths(depths []int, limit int) []int {
	count := make([]int, limit+1)
	room := -(1 << limit) // in units of the deepest code; above zero is too much
	for _, d := range depths {
		d = min(d, limit)
		count[d]++
		room += 1 << (limit - d)
	}
	for room > 0 {
		// Take one leaf of the limit away and put it beside a shallower one,
		// which becomes a node of two leaves one level down.
		d := limit - 1
		for count[d] == 0 {
			d--
		}
		count[d]--
		count[d+1] += 2
		count[limit]--
		room--
	}
	return count
}

// Codes assigns the canonical codes of RFC 1951 to code lengths. The codes are
// not bit-reversed: their first bit on the wire is the most significant.
func Codes(codes []uint16, lengths []uint8) {
	var count, next [MaxCodeBits + 2]uint16
	for _, l := range lengths {
		if l > 0 {
			count[l]++
		}
	}
	for bits := 1; bits <= MaxCodeBits; bits++ {
		next[bits+1] = (next[bits] + count[bits]) << 1
	}
	for s, l := range lengths {
		codes[s] = 0
		if l > 0 {
			codes[s] = next[l]
			next[l]++
		}
	}
}
