package deflate

// codeBuilder finds optimal prefix codes of limited length. It is scratch
// space: build may be called any number of times.
type codeBuilder struct {
	// leaves holds the used symbols in order of weight: weight<<9 | symbol.
	leaves [litLenCodes]uint32
	sorted [litLenCodes + 1]uint32 // and a sentinel
	// nodes are the weights of the tree's inner nodes, and later their depths.
	nodes   [litLenCodes]uint32
	parents [litLenCodes]uint32
	small   [smallWeights + 2]uint16
}

// smallWeights is the weight from which symbols are sorted by insertion instead of
// counting: in a page nearly all symbols occur less often.
const smallWeights = 64

// build sets lens to the lengths of an optimal prefix code for the given weights, no
// longer than limit bits. A single used symbol gets one bit; deflate allows such a code
// to be incomplete. The sum of the weights must be less than 1<<23, which holds for the
// tokens of a page.
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

// depths counts the leaves at each depth of an optimal code that is limited to limit
// bits. There are at least two leaves, in order of weight.
//
// Inner nodes are made in order of weight too, so the lightest node without a parent is
// always the next leaf or the next inner node. Which one is unpredictable, hence
// arithmetic instead of a branch.
func (b *codeBuilder) depths(leaves []uint32, count *[maxCodeBits + 1]int, limit int) {
	const none = 1<<32 - 1 // more than any weight, also when shifted as leaves are
	n := len(leaves)
	for i := range n {
		b.nodes[i] = none
	}
	b.sorted[n] = none
	leaf, node := 0, 0
	for made := range uint32(n - 1) {
		var sum uint32
		for range 2 {
			l, m := b.sorted[leaf]>>9, b.nodes[node]
			takeLeaf := 0
			if l <= m {
				takeLeaf = 1
			}
			sum += min(l, m)
			leaf += takeLeaf
			// If the leaf is taken, this is overwritten later.
			b.parents[node] = made
			node += 1 - takeLeaf
		}
		b.nodes[made] = sum
	}
	root := n - 2
	depth := &b.nodes
	depth[root] = 0
	// inner[d] nodes at depth d leave room for 2*inner[d-1] - inner[d] leaves. Leaves
	// below the limit are moved up to it, which makes the code invalid until the loop
	// below repairs it.
	var inner [maxCodeBits + 1]int
	inner[0] = 1
	for i := root - 1; i >= 0; i-- {
		d := depth[b.parents[i]] + 1
		depth[i] = d
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
