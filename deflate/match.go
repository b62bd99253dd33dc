package deflate

import (
	"encoding/binary"
	"math/bits"
)

const (
	// blockLen is how many positions are looked up together: one bit each in a
	// machine word.
	blockLen = 64

	hashBits = 12
	// hashMul is odd, so multiplying by it is a bijection on 32-bit words: the top
	// hashBits of the product choose the bucket, and the other bits distinguish the
	// words of one bucket without reading the page.
	hashMul = 0x9E3779B1

	// posMask selects the bits of a position that fit beside the hash bits: exactly as
	// many as distinguish all distances.
	posMask = maxDistance - 1

	// lazyBelow is the length from which a match is taken without checking whether the
	// next position has a longer one.
	lazyBelow = 32

	// quietBlocks without any candidate make the matcher skip some.
	quietBlocks = 4
	maxSkip     = 8

	// pageSlack is how far the matcher may read behind the page's end: the
	// longest match and one vector.
	pageSlack = 512
)

// matcher turns a page into tokens.
//
// It processes the page in blocks of 64 positions. Look-up reads from the hash table,
// for every position, where the same four bytes occurred last, and sets a bit of one
// machine word for each position with an earlier occurrence. Selection visits the set
// bits, takes the matches, and skips the bytes that they cover. Neither step branches
// on single bytes, which takes most of a byte-wise matcher's time. Block k+1 is looked
// up before matches of block k are selected, so that a processor can overlap the two.
//
// The table and the scratch space come first, here and in [Encoder]: objects of this size
// begin at a page of memory, so that the vectors in them do not cross cache lines.
type matcher struct {
	// table holds, for each bucket, the last word hashed into it: the hash bits
	// that do not choose the bucket above the position modulo 4,096.
	table [1 << hashBits]uint32
	//lint:ignore U1000 only the assembly looks inside
	scratch     scratch
	occurrences occurrences
	n           int // page length
	ntok        int
	src         source
	tok         [MaxPageSize + 2*blockLen]token
}

func (m *matcher) page() []byte    { return m.src[:m.n] }
func (m *matcher) tokens() []token { return m.tok[:m.ntok] }

// incompressible reports whether no match was found.
func (m *matcher) incompressible() bool { return m.ntok == m.n }

// load copies page, for three reasons: the matcher may read past the copy's end, the
// copy does not change, and it is in the cache.
func (m *matcher) load(page []byte) {
	m.n = copy(m.src[:MaxPageSize], page)
	clear(m.src[m.n : m.n+pageSlack])
}

// measure returns how many bytes from pos on, at most maxMatch, equal those
// distance bytes earlier. It does not stop at the page's end.
func (m *matcher) measure(pos, distance int) int {
	a, b := m.src[pos-distance:], m.src[pos:]
	for n := 0; n < maxMatch; n += 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return min(n+bits.TrailingZeros64(x)/8, maxMatch)
		}
	}
	return maxMatch
}
