// Package corpus generates memory pages that compress roughly as the pages of a running
// guest. It is for benchmarks and tests, which must not depend on a dump of real memory.
//
// The pages have the kinds and roughly the proportions of a Linux guest: text, tables of
// symbols and pointers, code, mostly empty pages, and incompressible pages. Equal seeds
// give equal pages on every machine and with every Go release.
package corpus

import "encoding/binary"

// PageSize is the length in bytes of a page.
const PageSize = 4096

// Kind is a kind of page.
type Kind int

// The kinds, each with its number of pages in sixteen.
const (
	Text     Kind = iota // 4: words of a small vocabulary, log lines
	Pointers             // 4: structures of pointers, lengths and flags
	Code                 // 4: byte codes of few shapes with immediates
	Sparse               // 3: zeros with little between them
	Random               // 1: incompressible
)

// String returns the kind's name in lower case.
func (k Kind) String() string {
	return [...]string{"text", "pointers", "code", "sparse", "random"}[k]
}

// Kinds lists all kinds.
func Kinds() []Kind { return []Kind{Text, Pointers, Code, Sparse, Random} }

// mix has the kinds of 16 consecutive pages.
var mix = [16]Kind{
	Text, Pointers, Code, Sparse, Text, Pointers, Code, Sparse,
	Text, Pointers, Code, Random, Text, Pointers, Code, Sparse,
}

// Generate returns n pages, one after the other.
func Generate(seed uint64, n int) []byte {
	pages := make([]byte, n*PageSize)
	for i := range n {
		Fill(pages[i*PageSize:(i+1)*PageSize], mix[i%len(mix)], seed+uint64(i))
	}
	return pages
}

// Fill overwrites page, of any length, with bytes of the given kind.
func Fill(page []byte, kind Kind, seed uint64) {
	r := newRandom(seed)
	switch kind {
	case Text:
		text(page, r)
	case Pointers:
		pointers(page, r)
	case Code:
		code(page, r)
	case Sparse:
		sparse(page, r)
	default:
		for i := range page {
			page[i] = byte(r.next() >> 56)
		}
	}
}

// random is a xorshift multiply generator. Its numbers must never change; math/rand does
// not guarantee that for all its sources.
type random uint64

func newRandom(seed uint64) *random {
	r := random(seed*0x9E3779B97F4A7C15 + 0x1234567)
	return &r
}

func (r *random) next() uint64 {
	x := *r
	x ^= x >> 12
	x ^= x << 25
	x ^= x >> 27
	*r = x
	return uint64(x) * 0x2545F4914F6CDD1D
}

// below returns a number from 0 to n-1.
func (r *random) below(n int) int { return int((r.next() >> 33) % uint64(n)) }

// skewed returns a number from 0 to n-1, small ones more often.
func (r *random) skewed(n int) int { return r.below(r.below(n) + 1) }

func text(page []byte, r *random) {
	// Each page has its own vocabulary, so that pages share no matches.
	var words [96]string
	for i := range words {
		var w [12]byte
		n := 2 + r.skewed(9)
		for j := range n {
			w[j] = "etaoinshrdlucmfwypvbgkjqxz_-"[r.skewed(28)]
		}
		words[i] = string(w[:n])
	}
	for at := 0; at < len(page); {
		at += copy(page[at:], words[r.skewed(len(words))])
		sep := " "
		switch r.below(16) {
		case 0:
			sep = "\n"
		case 1:
			sep = "=0x"
		case 2:
			sep = ": "
		}
		at += copy(page[at:], sep)
		if r.below(12) == 0 {
			for range 1 + r.below(6) {
				at += copy(page[at:], string(rune('0'+r.below(10))))
			}
		}
	}
}

func pointers(page []byte, r *random) {
	base := uint64(0xffff888000000000) | uint64(r.below(1<<20))<<12
	stride := 32 << r.below(3)
	var record [128]byte
	for at := 0; at < len(page); at += stride {
		for off := 0; off < stride; off += 8 {
			var v uint64
			switch off / 8 % 4 {
			case 0:
				v = base + uint64(r.skewed(1<<16))*64
			case 1:
				v = uint64(r.skewed(4096))
			case 2:
				v = uint64(r.below(4)) << 32
			case 3:
				if r.below(3) > 0 {
					v = base + uint64(at)
				}
			}
			binary.LittleEndian.PutUint64(record[off:], v)
		}
		copy(page[at:], record[:stride])
	}
}

func code(page []byte, r *random) {
	// A few dozen shapes of instruction, some with an immediate.
	var shapes [40][6]byte
	for i := range shapes {
		for j := range shapes[i] {
			shapes[i][j] = byte(r.skewed(256))
		}
	}
	for at := 0; at < len(page); {
		i := r.skewed(len(shapes))
		at += copy(page[at:], shapes[i][:2+i%5])
		if i%3 == 0 {
			var imm [4]byte
			binary.LittleEndian.PutUint32(imm[:], uint32(r.skewed(1<<12)))
			at += copy(page[at:], imm[:])
		}
	}
}

func sparse(page []byte, r *random) {
	clear(page)
	for range 1 + r.below(24) {
		at := r.below(len(page))
		for i := range min(1+r.below(24), len(page)-at) {
			page[at+i] = byte(r.skewed(256))
		}
	}
}
