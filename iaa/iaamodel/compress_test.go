package iaamodel

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"testing"

	"compress/flate"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/internal/deflate"
)

// tables returns an AECS with a table in which only some symbols have codes, and
// a dynamic header for it.
func tables(t *testing.T, h *deflate.Histogram) *aecs {
	t.Helper()
	var tab deflate.Tables
	tab.Build(h)
	a := &aecs{head: make([]byte, 256)}
	w := deflate.NewBitWriter(a.head)
	tab.WriteHeader(w, true)
	a.headBits = w.Flush()
	for s, n := range tab.LitLenBits {
		a.litlen[s] = uint32(n)<<15 | uint32(tab.LitLenCode[s])
	}
	for s, n := range tab.DistBits {
		a.dist[s] = uint32(n)<<15 | uint32(tab.DistCode[s])
	}
	return a
}

func TestCompress_UsesTheGivenTables(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	src := text(rng, history)
	var m matcher
	h := count(m.tokenize(src))
	h.LitLen[deflate.EndOfBlock] = 1
	a := tables(t, h)
	out := make([]byte, history)
	n, code := m.compress(out, src, a, true)
	if code != 0 {
		t.Fatal(code)
	}
	got, err := io.ReadAll(flate.NewReader(bytes.NewReader(out[:n])))
	if err != nil || !bytes.Equal(got, src) {
		t.Fatalf("flate: %d bytes, error %v", len(got), err)
	}

	a.litlen[src[0]] = 0
	if _, code := m.compress(out, src, a, true); code != iaa.CodeSymbolNoCode {
		t.Errorf("without a code for the first byte: %v, want %v", code, iaa.CodeSymbolNoCode)
	}
	a = tables(t, h)
	if _, code := m.compress(out[:n-1], src, a, true); code != iaa.CodeOutputOverflow {
		t.Errorf("a byte too little room: %v, want %v", code, iaa.CodeOutputOverflow)
	}
}

func TestCompress_MatchesStayWithinTheHistory(t *testing.T) {
	// The same random block twice, further apart than the history.
	rng := rand.New(rand.NewPCG(3, 3))
	block := make([]byte, 64)
	for i := range block {
		block[i] = byte(rng.Uint32())
	}
	src := append(append(bytes.Clone(block), make([]byte, history)...), block...)
	var m matcher
	pos := 0
	for _, tok := range m.tokenize(src) {
		if int(tok.dist) > history {
			t.Fatalf("at %d: distance %d", pos, tok.dist)
		}
		if tok.dist == 0 {
			pos++
		} else {
			pos += int(tok.length)
		}
	}
	if pos != len(src) {
		t.Errorf("tokens cover %d of %d bytes", pos, len(src))
	}
}

func TestStatistics_CountTheSymbols(t *testing.T) {
	var m matcher
	out := make([]byte, iaa.HistogramSize)
	m.statistics(out, []byte("abcdefgh"))
	for s := range deflate.NumLitLen {
		want := uint32(0)
		if s >= 'a' && s <= 'h' {
			want = 1
		}
		if got := binary.LittleEndian.Uint32(out[4*s:]); got != want {
			t.Errorf("symbol %d: %d, want %d", s, got, want)
		}
	}
}
