package iaamodel

import (
	"encoding/binary"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/internal/deflate"
)

// token is a literal (dist 0) or a match.
type token struct {
	length uint16 // or the literal
	dist   uint16
}

// matcher finds matches within the device's history. Real devices find other ones:
// compare what a stream inflates to, not its bytes.
type matcher struct {
	last   [1 << 12]int32 // most recent position with a hash, plus one
	prev   []int32
	tokens []token
}

// maxChain bounds how many earlier positions are compared.
const maxChain = 8

func hash4(b []byte) uint32 { return binary.LittleEndian.Uint32(b) * 2654435761 >> 20 }

// tokenize splits src into literals and matches.
func (m *matcher) tokenize(src []byte) []token {
	m.last = [1 << 12]int32{}
	if cap(m.prev) < len(src) {
		m.prev = make([]int32, len(src))
	}
	m.prev, m.tokens = m.prev[:len(src)], m.tokens[:0]
	insert := func(i int) {
		if i+4 <= len(src) {
			h := hash4(src[i:])
			m.prev[i] = m.last[h]
			m.last[h] = int32(i) + 1
		}
	}
	for i := 0; i < len(src); {
		length, dist := m.longest(src, i)
		if length < deflate.MinMatch {
			m.tokens = append(m.tokens, token{length: uint16(src[i])})
			insert(i)
			i++
			continue
		}
		m.tokens = append(m.tokens, token{uint16(length), uint16(dist)})
		for end := i + length; i < end; i++ {
			insert(i)
		}
	}
	return m.tokens
}

func (m *matcher) longest(src []byte, i int) (length, dist int) {
	if i+4 > len(src) {
		return 0, 0
	}
	limit := min(len(src)-i, deflate.MaxMatch)
	at := int(m.last[hash4(src[i:])]) - 1
	for chain := 0; at >= 0 && i-at <= history && chain < maxChain; chain++ {
		n := 0
		for n < limit && src[at+n] == src[i+n] {
			n++
		}
		if n > length {
			length, dist = n, i-at
		}
		at = int(m.prev[at]) - 1
	}
	return length, dist
}

func count(tokens []token) *deflate.Histogram {
	h := new(deflate.Histogram)
	for _, t := range tokens {
		if t.dist == 0 {
			h.LitLen[t.length]++
			continue
		}
		h.LitLen[deflate.LengthSymbol(int(t.length))]++
		h.Dist[deflate.DistSymbol(int(t.dist))]++
	}
	return h
}

// statistics writes the histogram of src to out, the end of block not counted.
func (m *matcher) statistics(out, src []byte) {
	h := count(m.tokenize(src))
	clear(out[:iaa.HistogramSize])
	for s, n := range h.LitLen {
		binary.LittleEndian.PutUint32(out[4*s:], n)
	}
	for s, n := range h.Dist {
		binary.LittleEndian.PutUint32(out[iaa.HistogramDist+4*s:], n)
	}
}

// compress writes the accumulator's bits and then src, coded with the tables of
// a, and the end of block if end is set. It returns the size, or an error code.
func (m *matcher) compress(out, src []byte, a *aecs, end bool) (int, iaa.Code) {
	w := deflate.NewBitWriter(out)
	for i := 0; i < a.headBits; i += 8 {
		n := min(a.headBits-i, 8)
		w.Bits(uint32(a.head[i/8])&(1<<n-1), uint(n))
	}
	missing := false
	put := func(entry uint32) {
		missing = missing || entry>>15 == 0
		w.Code(entry&(1<<15-1), uint(entry>>15))
	}
	for _, t := range m.tokenize(src) {
		if t.dist == 0 {
			put(a.litlen[t.length])
			continue
		}
		s := deflate.LengthSymbol(int(t.length))
		put(a.litlen[s])
		w.Bits(uint32(t.length)-uint32(deflate.LengthBase[s-257]), uint(deflate.LengthExtra[s-257]))
		s = deflate.DistSymbol(int(t.dist))
		put(a.dist[s])
		w.Bits(uint32(t.dist)-uint32(deflate.DistBase[s]), uint(deflate.DistExtra[s]))
	}
	if end {
		put(a.litlen[deflate.EndOfBlock])
	}
	w.Flush()
	switch {
	case missing:
		return 0, iaa.CodeSymbolNoCode
	case w.Overflow():
		return 0, iaa.CodeOutputOverflow
	}
	return w.Len(), 0
}

// ownTables fills a with a dynamic header and tables for src, as a version 2
// device does.
func (m *matcher) ownTables(a *aecs, src []byte) {
	h := count(m.tokenize(src))
	h.LitLen[deflate.EndOfBlock] = 1
	var t deflate.Tables
	t.Build(h)
	a.head = make([]byte, 512)
	w := deflate.NewBitWriter(a.head)
	t.WriteHeader(w, true)
	a.headBits = w.Flush()
	for s, n := range t.LitLenBits {
		a.litlen[s] = uint32(n)<<15 | uint32(t.LitLenCode[s])
	}
	for s, n := range t.DistBits {
		a.dist[s] = uint32(n)<<15 | uint32(t.DistCode[s])
	}
}
