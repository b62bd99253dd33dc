package deflate

// codeBuilder finds optimal prefix codes of limited length. It is scratch
// space: build may be called any number of times.
type codeBuilder struct {
	// leaves holds the used symbols in order of weight: weight<<9 | symbol.
	leaves [litLenCodes]uint32
	sorted [litLenCodes]uint32
	// nodes is the tree under construction: weights, then parents, then depths,
	// in place.
	nodes [litLenCodes]uint32
	small [smallWeights + 2]uint16
}

// smallWeights is where sorting by counting gives way to insertion: in a page
// nearly all symbols occur less often than this.
const smallWeights = 64

// build sets lens to the lengths of an optimal prefix code for the given
// weights, no longer than limit bits. One or no used symbol gets one bit; deflate allows
// such a code to be incomplete.
func (b *codeBuilder) build(lens []uint8, weights []uint32, limit int) {
	clear(lens)
	n := b.sort(weights)
	leaves := b.sorted[:n]
	if n <= 1 {
		for _, leaf := range leaves {
			lens[leaf&511] = 1
		}
		return
	}
	var count [maxCodeBits + 1]int
	b.depths(leaves, &count, limit)
	// The rarest symbols get the longest codes.
	i := 0
	for bits := limit; bits > 0; bits-- {
		for range count[bits] {
			lens[leaves[i]&511] = uint8(bits)
			i++
		}
	}
}

// sort puts the used symbols into sorted, lightest first, and returns how many
// there are.
func (b *codeBuilder) sort(weights []uint32) int {
	n := 0
	for sym, w := range weights {
		// Without a branch: every other symbol is unused.
		b.leaves[n] = w<<9 | uint32(sym)
		n += int((w | -w) >> 31)
	}
	leaves := b.leaves[:n]
	clear(b.small[:])
	for _, leaf := range leaves {
		b.small[min(leaf>>9, smallWeights)+1]++
	}
	for w := 1; w <= smallWeights; w++ {
		b.small[w] += b.small[w-1]
	}
	tail := int(b.small[smallWeights]) // where insertion begins
	for _, leaf := range leaves {
		at := &b.small[min(leaf>>9, smallWeights)]
		i := int(*at)
		*at++
		if i < tail {
			b.sorted[i] = leaf
			continue
		}
		for i > tail && b.sorted[i-1] > leaf {
			b.sorted[i] = b.sorted[i-1]
			i--
		}
		b.sorted[i] = leaf
	}
	return n
}

// depths counts how many leaves an optimal code puts at each depth, none deeper
// than limit. leaves are at least two, in order of weight.
//
// The tree is built in place: nodes[i] is first the weight of the i-th inner
// node, in the order of their making, which is the order of their weight too;
// once the node has a parent, the parent's index; and on the way back from the root,
// its depth.
func (b *codeBuilder) depths(leaves []uint32, count *[maxCodeBits + 1]int, limit int) {
	n := len(leaves)
	nodes := b.nodes[:n-1]
	leaf, node := 0, 0
	for made := range nodes {
		var sum uint32
		for range 2 {
			if leaf < n && (node >= made || leaves[leaf]>>9 <= nodes[node]) {
				sum += leaves[leaf] >> 9
				leaf++
			} else {
				sum += nodes[node]
				nodes[node] = uint32(made)
				node++
			}
		}
		nodes[made] = sum
	}
	root := n - 2
	nodes[root] = 0
	// inner[d] nodes at depth d leave room for 2*inner[d-1] - inner[d] leaves.
	// Whatever lies deeper than the limit is folded up to it, which breaks the
	// code, and then mended.
	var inner [maxCodeBits + 1]int
	inner[0] = 1
	for i := root - 1; i >= 0; i-- {
		d := nodes[nodes[i]] + 1
		nodes[i] = d
		if int(d) < limit {
			inner[d]++
		}
	}
	used := 0 // in units of 2^-limit, 1<<limit is a complete code
	left := n
	for d := 1; d < limit; d++ {
		count[d] = 2*inner[d-1] - inner[d]
		left -= count[d]
		used += count[d] << (limit - d)
	}
	count[limit] = left
	used += left
	for ; used > 1<<limit; used-- {
		// Lengthen the longest code that can be lengthened by one bit, and put
		// one of the overlong leaves beside it. Each such step frees one unit.
		d := limit - 1
		for count[d] == 0 {
			d--
		}
		count[d]--
		count[d+1] += 2
		count[limit]--
	}
}
