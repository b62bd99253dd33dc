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

// candidates are the positions in a block whose bytes occurred earlier.
type candidates struct {
	at   uint64           // bit i is set where position i has a candidate
	dist [blockLen]uint32 // its distance less 1
}

// pace decides which blocks are looked up. After some blocks without a candidate it
// skips blocks between two look-ups, more and more up to maxSkip, because look-ups of
// bytes that never repeat waste time.
type pace struct {
	quiet, skip int
}

// record records whether a look-up gave candidates.
func (p *pace) record(any bool) {
	if any {
		*p = pace{}
		return
	}
	p.quiet++
	if p.quiet >= quietBlocks {
		p.skip = min(p.quiet-quietBlocks+1, maxSkip)
	}
}

// skips reports whether to skip the next block.
func (p *pace) skips() bool {
	if p.skip == 0 {
		return false
	}
	p.skip--
	return true
}

// findBlocks fills in the tokens. It is the reference for the assembly.
func (m *matcher) findBlocks(lazy bool) {
	clear(m.table[:])
	var (
		blocks [2]candidates // the one being selected from and the next
		pace   pace
		next   int // first position not covered by a token
	)
	m.ntok = 0
	looked := true
	m.lookUp(&blocks[0], 0)
	for start := 0; start < m.n; start += blockLen {
		cur, ahead := &blocks[0], &blocks[1]
		if start/blockLen%2 == 1 {
			cur, ahead = ahead, cur
		}
		if looked {
			pace.record(cur.at != 0)
		}
		ahead.at = 0
		end := start + blockLen
		looked = !pace.skips() && end < m.n && next < end+blockLen
		if looked {
			m.lookUp(ahead, end)
		}
		if next < end {
			next = m.take(cur, start, next, lazy)
		}
	}
	if next > m.n {
		// The last match extends into the zeros behind the page.
		m.tok[m.ntok-1] -= token((next - m.n) << lengthShift)
	}
}

// lookUp looks up and enters the words at the 64 positions from start.
func (m *matcher) lookUp(c *candidates, start int) {
	c.at = 0
	// Only whole words inside the page count. Words behind it are entered too, but
	// never looked up.
	count := min(m.n-minMatch+1-start, blockLen)
	for i := range blockLen {
		pos := start + i
		h := binary.LittleEndian.Uint32(m.src[pos:]) * hashMul
		slot := &m.table[h>>(32-hashBits)]
		fresh := h<<hashBits | uint32(pos)&posMask
		old := *slot
		*slot = fresh
		dist := (fresh - old - 1) & posMask
		c.dist[i] = dist
		// An empty entry looks like one of position 0, and in a long page an old entry
		// like one 4,096 later. A distance that reaches before the page identifies the
		// first, measuring the match the second.
		if (old^fresh)&^posMask == 0 && int(dist) < pos && i < count {
			c.at |= 1 << i
		}
	}
}

// take makes tokens of the positions of a block from next on, which are not covered
// yet. It returns the first position that the tokens do not cover.
func (m *matcher) take(c *candidates, start, next int, lazy bool) int {
	end := min(start+blockLen, m.n)
	pos := max(next, start)
	for pos < end {
		i := pos - start
		length := 0
		if c.at>>i&1 != 0 {
			length = m.measure(pos, int(c.dist[i])+1)
		}
		if length < minMatch {
			m.emit(token(m.src[pos]))
			pos++
			continue
		}
		if lazy && length < lazyBelow && i+1 < blockLen && c.at>>(i+1)&1 != 0 && c.dist[i+1] != c.dist[i] {
			if better := m.measure(pos+1, int(c.dist[i+1])+1); better > length {
				m.emit(token(m.src[pos]))
				pos, i, length = pos+1, i+1, better
			}
		}
		m.emit(matchToken(length, int(c.dist[i])+1))
		pos += length
	}
	return pos
}

func (m *matcher) emit(t token) {
	m.tok[m.ntok] = t
	m.ntok++
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
