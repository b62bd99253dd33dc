package deflate

import (
	"encoding/binary"
	"math/bits"
)

const (
	// lazyMeasure is how many bytes of two matches at neighbouring positions are
	// compared to decide which one is longer. The assembly compares one vector.
	lazyMeasure = 32

	// After quietAfter literals in a row the matcher leaves out positions, one more at a
	// time for every quietStep positions, because looking up bytes that never repeat
	// wastes time. They are quietMost at most.
	quietAfter = 64
	quietStep  = 1 << quietShift
	quietShift = 5
	quietMost  = 32

	// enterLeast is how many positions are entered after every match.
	enterLeast = 8
)

// occurrences holds, for each bucket, the last position whose word hashed into it, or
// zero. A position need not have the word that is looked for, so zero needs no special
// case.
type occurrences [1 << hashBits]uint16

func bucket(word uint32) uint32 { return word * hashMul >> (32 - hashBits) }

// swap enters position pos, where word is, and returns the position that the bucket had
// before.
func (o *occurrences) swap(word uint32, pos int) int {
	slot := &o[bucket(word)]
	before := *slot
	*slot = uint16(pos)
	return int(before)
}

// enterMatch enters the positions behind from that a match up to end-1 covers, and at
// least the last enterLeast before end. Entering positions again, in order, changes
// nothing, and a fixed number of them takes no branch.
func (o *occurrences) enterMatch(src *source, from, end int) {
	for from = max(min(from+1, end-enterLeast), 0); from+4 <= end; from += 4 {
		words := binary.LittleEndian.Uint64(src[from:])
		o[bucket(uint32(words))] = uint16(from)
		o[bucket(uint32(words>>8))] = uint16(from + 1)
		o[bucket(uint32(words>>16))] = uint16(from + 2)
		o[bucket(uint32(words>>24))] = uint16(from + 3)
	}
	for ; from < end; from++ {
		o[bucket(binary.LittleEndian.Uint32(src[from:]))] = uint16(from)
	}
}

// source is a page, with zeros behind it.
type source [MaxPageSize + pageSlack]byte

// findLazyGo looks up one position after the other and takes a match unless the one at
// the next position is longer.
func findLazyGo(m *matcher, s *weights) bool {
	o, src := &m.occurrences, &m.src
	clear(o[:])
	var (
		pos, ntok int
		last      = m.n - minMatch // position where a match may start
		quietAt   = quietAfter
		pending   = true // the literals before the first match are not tokens yet
	)
scan:
	for pos <= last {
		word := binary.LittleEndian.Uint32(src[pos:])
		from := o.swap(word, pos)
		// One branch for both conditions.
		if (binary.LittleEndian.Uint32(src[from:])^word)|uint32(pos-from-1)&^(maxDistance-1) != 0 {
			next := pos + 1
			if next-quietAt >= quietStep && next <= last {
				o.swap(binary.LittleEndian.Uint32(src[next:]), next)
				next = min(next+min((next-quietAt)/quietStep, quietMost), m.n)
			}
			if pending {
				pos = next
				continue
			}
			for ; pos < next; pos++ {
				m.tok[ntok] = token(src[pos])
				ntok++
				s.litLen[src[pos]]++
			}
			continue
		}
		if pending {
			pending = false
			ntok = m.literals(s, 0, 0, pos)
		}
		length := src.measureLazy(pos, from)
		for length < lazyMeasure {
			nextFrom := o.swap(binary.LittleEndian.Uint32(src[pos+1:]), pos+1)
			if uint(pos-nextFrom) >= maxDistance {
				break
			}
			nextLength := src.measureLazy(pos+1, nextFrom)
			if nextLength <= length {
				break
			}
			m.tok[ntok] = token(src[pos])
			ntok++
			s.litLen[src[pos]]++
			pos++
			if pos > last {
				break scan
			}
			from, length = nextFrom, nextLength
		}
		if length == lazyMeasure {
			length = m.measure(pos, pos-from)
		}
		length = min(length, m.n-pos)
		m.tok[ntok] = matchToken(length, pos-from)
		ntok++
		s.addMatch(uint(length-3), uint(pos-from-1))
		o.enterMatch(src, pos, pos+length)
		pos += length
		quietAt = pos + quietAfter
	}
	if pending {
		if looksRandom(m.page()) {
			return false
		}
		ntok, pos = 0, 0
	}
	m.ntok = m.literals(s, ntok, pos, m.n)
	return true
}

// literals appends tokens for the bytes from from to to-1 to the ntok tokens that there
// are and counts them. It returns how many tokens there are then.
func (m *matcher) literals(s *weights, ntok, from, to int) int {
	for _, b := range m.src[from:to] {
		m.tok[ntok] = token(b)
		s.litLen[b]++
		ntok++
	}
	return ntok
}

// addMatch counts a match.
func (s *weights) addMatch(length3, distance1 uint) {
	s.litLen[lengthParts[length3&0xff].symbol]++
	sym, _, _ := distanceSymbol(distance1)
	s.distance[sym%distanceCodes]++
}

// lengthPart is a match length in a block: its symbol, the number of extra bits and
// their value.
type lengthPart struct {
	symbol           uint16
	extraBits, extra uint8
}

// lengthParts has all lengths, less 3.
var lengthParts = func() (parts [256]lengthPart) {
	for length3 := range parts {
		sym, extraBits, extra := lengthSymbol(uint(length3))
		parts[length3] = lengthPart{uint16(endOfBlock + sym), uint8(extraBits), uint8(extra)}
	}
	return parts
}()

// measureLazy returns how many bytes from pos on, at most lazyMeasure, equal those from
// from on.
func (src *source) measureLazy(pos, from int) int {
	a, b := src[from:], src[pos:]
	for n := 0; n < lazyMeasure; n += 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
	}
	return lazyMeasure
}
