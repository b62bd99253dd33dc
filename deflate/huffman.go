package deflate

import "math/bits"

// codeBuilder finds optimal prefix codes of limited length. It is scratch space: build
// may be called any number of times.
type codeBuilder struct {
	// leaves holds the used symbols in their own order and sorted in the order of
	// weight, with two sentinels, as weight<<leafWeight | symbol.
	leaves [litLenCodes]uint32
	sorted [litLenCodes + 2]uint32
	used   int
	// nodes are the weights of the tree's inner nodes, with two sentinels.
	nodes   [litLenCodes + 1]uint32
	parents [litLenCodes + 1]uint16
	// small is where the next symbol of each weight is sorted to, for the first and the
	// second half of the leaves.
	small [2][smallWeights + 1]uint16
	// count is how many codes of each length there are.
	count [maxCodeBits + 1]uint16
}

const (
	leafWeight = 9
	leafSymbol = 1<<leafWeight - 1

	// noWeight is more than any weight, and twice noWeight fits a word.
	noWeight = 1 << 23

	// smallWeights is the weight from which symbols are sorted by insertion instead of
	// counting: in a page nearly all symbols occur less often.
	smallWeights = 64
)

// build sets lens to the lengths of an optimal prefix code for the given weights, no
// longer than limit bits. A single used symbol gets one bit; deflate allows such a code
// to be incomplete. The sum of the weights must be less than noWeight, which holds for
// the tokens of a page.
func (b *codeBuilder) build(lens []uint8, weights []uint32, limit int) {
	clear(lens)
	clear(b.count[:])
	b.sort(weights)
	leaves := b.sorted[:b.used]
	if len(leaves) <= 1 {
		for _, leaf := range leaves {
			lens[leaf&leafSymbol] = 1
			b.count[1] = 1
		}
		return
	}
	b.merge(leaves)
	b.measure(len(leaves), limit)
	// The rarest symbols get the longest codes.
	i := 0
	for n := limit; n > 0; n-- {
		for _, leaf := range leaves[i : i+int(b.count[n])] {
			lens[leaf&leafSymbol] = uint8(n)
		}
		i += int(b.count[n])
	}
}

// codes sets codes to the canonical codes of the lengths lens that build has set, none of
// them longer than codeLimit (RFC 1951, section 3.2.2).
func (b *codeBuilder) codes(codes []code, lens []uint8) {
	clear(codes)
	// The next code of each length, its first bit in bit 15.
	var next [maxCodeBits + 1]uint16
	first := 0
	for n := 1; n <= codeLimit; n++ {
		next[n] = uint16(first)
		first += int(b.count[n]) << (16 - n)
	}
	for _, leaf := range b.leaves[:b.used] {
		sym := leaf & leafSymbol
		n := lens[sym] & maxCodeBits
		c := next[n]
		next[n] = c + 1<<(16-n)
		codes[sym] = code(bits.Reverse16(c)) | code(n)<<codeLimit
	}
}

// setLengths makes codes use the lengths lens of another origin than build.
func (b *codeBuilder) setLengths(lens []uint8) {
	b.used = 0
	clear(b.count[:])
	for sym, n := range lens {
		if n > 0 {
			b.leaves[b.used] = uint32(sym)
			b.used++
			b.count[n]++
		}
	}
}

// sort puts the used symbols into leaves and sorted.
func (b *codeBuilder) sort(weights []uint32) {
	n := 0
	for sym, w := range weights {
		// Without a branch: every other symbol is unused.
		b.leaves[n] = w<<leafWeight | uint32(sym)
		n += int((w | -w) >> 31)
	}
	b.used = n
	// Many symbols in a row have the same weight. Their counters are two, so that one
	// need not wait for the other.
	clear(b.small[0][:])
	clear(b.small[1][:])
	half := n / 2
	low, high := b.leaves[:half], b.leaves[half:n]
	for i, leaf := range low {
		b.small[0][min(leaf>>leafWeight, smallWeights)]++
		b.small[1][min(high[i]>>leafWeight, smallWeights)]++
	}
	if n%2 == 1 {
		b.small[1][min(high[half]>>leafWeight, smallWeights)]++
	}
	at := uint16(0)
	for w := range b.small[0] {
		first, second := &b.small[0][w], &b.small[1][w]
		*first, *second, at = at, at+*first, at+*first+*second
	}
	for i, leaf := range low {
		b.place(0, leaf)
		b.place(1, high[i])
	}
	if n%2 == 1 {
		b.place(1, high[half])
	}
	// The symbols from smallWeights on are the last ones, in no order.
	tail := b.sorted[b.small[1][smallWeights-1]:n]
	for i := 1; i < len(tail); i++ {
		leaf, k := tail[i], i
		for ; k > 0 && tail[k-1] > leaf; k-- {
			tail[k] = tail[k-1]
		}
		tail[k] = leaf
	}
}

// place puts a leaf of the given half where its weight belongs.
func (b *codeBuilder) place(half int, leaf uint32) {
	at := &b.small[half][min(leaf>>leafWeight, smallWeights)]
	b.sorted[*at] = leaf
	*at++
}

// merge makes the inner nodes of the tree of the leaves, of which there are at least two.
//
// Inner nodes are made in order of weight, so the two lightest nodes without a parent are
// always among the next two leaves and the next two inner nodes. Which ones is
// unpredictable, hence arithmetic instead of branches.
func (b *codeBuilder) merge(leaves []uint32) {
	n := len(leaves)
	for i := range b.nodes[:n+1] {
		b.nodes[i] = noWeight
	}
	b.sorted[n], b.sorted[n+1] = noWeight<<leafWeight-1, noWeight<<leafWeight-1
	leaf, node := 0, 0
	for made := range n - 1 {
		l0, l1 := b.sorted[leaf]>>leafWeight, b.sorted[leaf+1]>>leafWeight
		n0, n1 := b.nodes[node], b.nodes[node+1]
		// If a node is not taken, its parent is overwritten later.
		b.parents[node], b.parents[node+1] = uint16(made), uint16(made)
		b.nodes[made] = min(l0+l1, l0+n0, n0+n1)
		take := 1
		if l1 <= n0 {
			take = 2
		}
		if n1 < l0 {
			take = 0
		}
		leaf += take
		node += 2 - take
	}
}

// measure counts how many of n leaves are at each depth of the tree, limited to limit
// bits.
func (b *codeBuilder) measure(n, limit int) {
	// Of the inner nodes, lighter ones are at least as deep as heavier ones. So those of
	// one depth lie side by side, from first to last. inner nodes at one depth leave room
	// for 2*inner less those of the next depth leaves there. Leaves below the limit are
	// moved up to it, which makes the code invalid until the loop below repairs it.
	used := 0 // in units of 2^-limit, 1<<limit is a complete code
	left := n
	first, last := n-2, n-2
	for d := 1; d < limit; d++ {
		inner := last - first + 1
		last = first - 1
		parent := uint16(first)
		for first > 0 && b.parents[first-1] >= parent {
			first--
		}
		leaves := 2*inner - (last - first + 1)
		b.count[d] = uint16(leaves)
		left -= leaves
		used += leaves << (limit - d)
	}
	b.count[limit] = uint16(left)
	used += left
	for ; used > 1<<limit; used-- {
		// Lengthen the longest code that can be lengthened by one bit, and put
		// one of the overlong leaves beside it. Each such step frees one unit.
		d := limit - 1
		for b.count[d] == 0 {
			d--
		}
		b.count[d]--
		b.count[d+1] += 2
		b.count[limit]--
	}
}
