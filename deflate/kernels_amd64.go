//go:build !noasm

package deflate

import "golang.org/x/sys/cpu"

// useAVX512 is true if the processor has all instructions of the assembly, as all with
// AVX-512 since Ice Lake and Zen 4 do.
var useAVX512 = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL &&
	cpu.X86.HasAVX512CD && cpu.X86.HasAVX512VBMI && cpu.X86.HasAVX512VBMI2 && cpu.X86.HasAVX512GFNI &&
	cpu.X86.HasBMI1 && cpu.X86.HasBMI2 && cpu.X86.HasPOPCNT

// scratch is the state of findAVX512 for one block and the next two.
//
//lint:ignore U1000 only the assembly looks inside
type scratch struct {
	bucket [2][blockLen]uint32 // where each position's word hashes to
	fresh  [2][blockLen]uint32 // the entry that it writes there
	old    [blockLen]uint32    // the entry that it reads there
	// dist is distance-1 of each candidate. The assembly reads one element behind the
	// last, which must be a valid distance too.
	dist [blockLen + 1]uint32
	tok  [blockLen]token // the matches taken, at their positions
}

//go:noescape
func findAVX512(m *matcher, lazy bool)

func (m *matcher) find(lazy bool) {
	if useAVX512 {
		findAVX512(m, lazy)
		return
	}
	m.findGeneric(lazy)
}

//go:noescape
func putFixedAVX512(dst *byte, tokens *token, n int, at, acc uint64) (end, accOut uint64)

func putFixed(w *bitWriter, tokens []token) {
	if whole := len(tokens) &^ 15; useAVX512 && whole > 0 {
		end, acc := putFixedAVX512(&w.buf[0], &tokens[0], whole, uint64(w.n)*8+uint64(w.count), w.acc)
		w.n, w.count, w.acc = int(end>>3), uint(end&7), acc
		tokens = tokens[whole:]
	}
	fixedCodes.put(w, tokens)
}

//go:noescape
func sortAVX512(c *canonical, lens *[litLenCodes]uint8)

func (c *canonical) sort(lens []uint8) {
	if useAVX512 && len(lens) == litLenCodes {
		sortAVX512(c, (*[litLenCodes]uint8)(lens))
		return
	}
	c.sortGeneric(lens)
}

// counters are the counters of weighAVX512.
type counters struct {
	//lint:ignore U1000 only the assembly looks at it
	litLen    [4][litLenCodes]uint32
	distances [MaxPageSize/minMatch + 16]uint32
}

//go:noescape
func weighAVX512(litLen *[litLenCodes]uint32, c *counters, tokens *token, n int) (matches, extraBits int)

func (s *weights) add(tokens []token) {
	if whole := len(tokens) &^ 15; useAVX512 && whole > 0 {
		matches, extraBits := weighAVX512(&s.litLen, &s.counters, &tokens[0], whole)
		for _, sym := range s.counters.distances[:matches] {
			s.distance[sym%distanceCodes]++
		}
		s.extraBits += extraBits
		tokens = tokens[whole:]
	}
	s.addGeneric(tokens)
}

//go:noescape
func putTokensAVX512(dst *byte, tokens *token, n int, at, acc uint64, codes *tokenCodes) (left int, end, accOut uint64)

func (t *tokenCodes) putTokens(w *bitWriter, tokens []token) {
	for useAVX512 && len(tokens) >= 16 {
		whole := len(tokens) &^ 15
		left, end, acc := putTokensAVX512(&w.buf[0], &tokens[0], whole, uint64(w.n)*8+uint64(w.count), w.acc, t)
		w.n, w.count, w.acc = int(end>>3), uint(end&7), acc
		tokens = tokens[whole-left:]
		if left > 0 {
			// Two of the next tokens are too long to be written together.
			t.put(w, tokens[:16])
			tokens = tokens[16:]
		}
	}
	t.put(w, tokens)
}

//go:noescape
func decodeAVX512(d *Decoder, c *blockCode, patterns *copyPatterns) status

func (d *Decoder) decode(c *blockCode) status {
	if useAVX512 {
		return decodeAVX512(d, c, &patterns)
	}
	return d.decodeGeneric(c)
}

// copyPatterns are for copying a match 64 bytes at a time if it overlaps itself: for
// each byte, its index from the match's start, and the number of bytes in whole
// repetitions by which the copy advances.
type copyPatterns struct {
	index [65][64]uint8 // by distance; 64 stands for any beyond
	step  [65]uint8
}

var patterns = func() (p copyPatterns) {
	for distance := 1; distance <= 64; distance++ {
		for i := range p.index[distance] {
			p.index[distance][i] = uint8(i % distance)
		}
		p.step[distance] = uint8(64 - 64%distance)
	}
	return p
}()

//go:noescape
func zeroStepsAVX512(p *byte, n int) bool

func zeroSteps(p []byte) bool {
	if useAVX512 && len(p) > 0 {
		return zeroStepsAVX512(&p[0], len(p))
	}
	return zeroStepsGeneric(p)
}
