package main

import (
	"bytes"
	"compress/flate"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestCheckPage_FindsDamage(t *testing.T) {
	p := make([]byte, pageSize)
	for number := range uint64(8) {
		writePage(p, number, 3)
		if err := checkPage(p, number, 3); err != nil {
			t.Errorf("a good page: %v", err)
		}
		if err := checkPage(p, number+1, 3); err == nil || !strings.Contains(err.Error(), "holds page") {
			t.Errorf("at another page's place: %v", err)
		}
		if err := checkPage(p, number, 4); err == nil || !strings.Contains(err.Error(), "has seq 3, want 4") {
			t.Errorf("an older state: %v", err)
		}
		for _, offset := range []int{0, 8, 16, 24, 1000, pageSize - 1} {
			p[offset] ^= 0x40
			if checkPage(p, number, 3) == nil {
				t.Errorf("page %d with a flipped bit at %d passes", number, offset)
			}
			p[offset] ^= 0x40
		}
		copy(p[2048:], p[1024:2048])
		if checkPage(p, number, 3) == nil {
			t.Errorf("page %d with a part of itself copied over another passes", number)
		}
	}
	if checkPage(make([]byte, pageSize), 0, 0) == nil {
		t.Error("a zero page passes for page 0")
	}
}

// The contents of a page with two sequence numbers differ in both halves, so that checkPage
// finds a mix of an old and a new content.
func TestWritePage_ContentsDifferBySequenceNumber(t *testing.T) {
	a, b := make([]byte, pageSize), make([]byte, pageSize)
	for number := range uint64(4) {
		writePage(a, number, 1)
		writePage(b, number, 2)
		for half := range 2 {
			if bytes.Equal(a[half*2048+offBody:][:1024], b[half*2048+offBody:][:1024]) {
				t.Errorf("page %d: half %d is the same in both states", number, half)
			}
		}
	}
}

// Each kind of content has its compressibility.
func TestWritePage_Compressibility(t *testing.T) {
	for number, bounds := range map[uint64][2]int{0: {500, 2000}, 2: {1000, 3000}, 3: {4000, 4200}} {
		p := make([]byte, pageSize)
		writePage(p, number, 0)
		var out bytes.Buffer
		w, err := flate.NewWriter(&out, 6)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(p)
		w.Close()
		if n := out.Len(); n < bounds[0] || n > bounds[1] {
			t.Errorf("page %d compresses to %d bytes, want %d to %d", number, n, bounds[0], bounds[1])
		}
	}
}

// A change in a few places is a state of its own, and leaves most of the page as it was.
func TestChangePart_ChangesAFewPlaces(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	before, p := make([]byte, pageSize), make([]byte, pageSize)
	for number := range uint64(4) {
		writePage(p, number, 0)
		for seq := uint64(1); seq < 200; seq++ {
			copy(before, p)
			changePart(p, number, seq, r)
			if err := checkPage(p, number, seq); err != nil {
				t.Fatal(err)
			}
			changed := 0
			for i := range p {
				if p[i] != before[i] {
					changed++
				}
			}
			if most := offBody + 8 + 4*64; changed == 0 || changed > most {
				t.Fatalf("page %d, state %d: %d bytes changed, want at most %d", number, seq, changed, most)
			}
			copy(before[2048:], p[2048:])
			if mixed := bytes.Equal(before, p); !mixed && checkPage(before, number, seq) == nil {
				t.Fatalf("page %d, state %d: a mix of two states passes", number, seq)
			}
		}
	}
}
