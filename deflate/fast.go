package deflate

import "encoding/binary"

const (
	// groupLen is how many positions fast looks up together. It takes the match at the
	// first of them that has one. So one branch decides about four positions, and four
	// times in five it goes the same way.
	groupLen = 4

	// fastBits and fastMul make the hash of four bytes: the top bits of a product.
	fastBits = 12
	fastMul  = 0x9E3779B1

	// coldLen bytes without a match make fast skip positions: one more after each
	// 1<<coldShift positions without a match.
	coldLen   = 24 * groupLen
	coldShift = 5
)

// fastCoder is the state of fast.
type fastCoder struct {
	pos   int // everything before is written
	end   int // where the last match ended, or where the first group started
	last  int // the last position where a group can start
	limit int // the longest stream that is of use
	// table holds, for each hash of four bytes, the position where they were last seen.
	table [1 << fastBits]uint16
}

// fastGo writes the page with groupsGo.
func fastGo(e *Encoder) { e.encodeFast(groupsGo) }

// encodeFast writes the page in one pass. groups writes groups from e.fast.pos on until it
// reaches e.fast.last or finds no match in coldLen bytes.
func (e *Encoder) encodeFast(groups func(e *Encoder)) {
	f, w, m := &e.fast, &e.out, &e.match
	clear(f.table[:])
	// An empty entry of the table is position 0, so that is a literal.
	first := fixedWords.literal[m.src[0]]
	w.put(blockFinal|blockFixed|first.bits()<<3, 3+first.count())
	f.pos, f.end, f.last = 1, 1, m.n-groupLen-minMatch+1
	for f.pos <= f.last {
		groups(e)
		if f.pos <= f.last && !e.skip() {
			break
		}
	}
	// Without a match, or if each byte of the rest took a byte, the page does not shrink.
	if f.end == 1 || w.n+m.n-f.pos > f.limit {
		w.reset()
		return
	}
	w.putLiterals(m.src[f.pos:m.n])
	fixedCodes.end(w)
}

// skip looks for a match from e.fast.pos on, at ever fewer positions, and writes the bytes
// up to its end. It writes nothing and returns false if it finds no match or if the stream
// gets too long.
func (e *Encoder) skip() bool {
	f, w, m := &e.fast, &e.out, &e.match
	misses := 0
	for at := f.pos; at <= f.last; at += 1 + misses>>coldShift {
		word := binary.LittleEndian.Uint32(m.src[at:])
		slot := &f.table[word*fastMul>>(32-fastBits)]
		from := int(*slot)
		*slot = uint16(at)
		distance := at - from
		if binary.LittleEndian.Uint32(m.src[from:]) != word || distance > maxDistance {
			misses++
			continue
		}
		length := min(m.measure(at, distance), m.n-at)
		for from > 0 && at > f.pos && length < maxMatch && m.src[from-1] == m.src[at-1] {
			from, at, length = from-1, at-1, length+1
		}
		if w.n+at-f.pos > f.limit {
			return false
		}
		w.putLiterals(m.src[f.pos:at])
		l, d := fixedWords.length[length-3], fixedWords.distance[distance-1]
		w.put(l.bits()|d.bits()<<(l.count()&63), l.count()+d.count())
		f.pos, f.end = at+length, at+length
		return true
	}
	return false
}

// putLiterals writes p in the fixed code.
func (w *bitWriter) putLiterals(p []byte) {
	words := fixedWords
	for ; len(p) >= 4; p = p[4:] {
		l0, l1, l2, l3 := words.literal[p[0]], words.literal[p[1]], words.literal[p[2]], words.literal[p[3]]
		n1 := l0.count()
		n2 := n1 + l1.count()
		n3 := n2 + l2.count()
		w.put(l0.bits()|l1.bits()<<(n1&63)|l2.bits()<<(n2&63)|l3.bits()<<(n3&63), n3+l3.count())
	}
	for _, b := range p {
		l := words.literal[b]
		w.put(l.bits(), l.count())
	}
}
