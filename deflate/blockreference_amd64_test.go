//go:build !noasm

package deflate

import "encoding/binary"

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
