//go:build !noasm

package deflate

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

func findVBMI2(m *matcher) { findAVX512(m, true) }

func fastVBMI2(e *Encoder) {
	findAVX512(&e.match, false)
	if !e.match.incompressible() {
		encodeFixed(&e.out, e.match.tokens(), putFixedVBMI2)
	}
}

//go:noescape
func putFixedAVX512(dst *byte, tokens *token, n int, at, acc uint64) (end, accOut uint64)

func putFixedVBMI2(w *bitWriter, tokens []token) {
	if whole := len(tokens) &^ 15; whole > 0 {
		end, acc := putFixedAVX512(&w.buf[0], &tokens[0], whole, uint64(w.n)*8+uint64(w.count), w.acc)
		w.n, w.count, w.acc = int(end>>3), uint(end&7), acc
		tokens = tokens[whole:]
	}
	fixedCodes.putGo(w, tokens)
}

//go:noescape
func sortAVX512(c *canonical, lens *[litLenCodes]uint8)

func sortVBMI2(c *canonical, lens []uint8) {
	if len(lens) == litLenCodes {
		sortAVX512(c, (*[litLenCodes]uint8)(lens))
		return
	}
	c.sortGo(lens)
}

// counters are the counters of weighAVX512.
type counters struct {
	//lint:ignore U1000 only the assembly looks at it
	litLen    [4][litLenCodes]uint32
	distances [MaxPageSize/minMatch + 16]uint32
}

//go:noescape
func weighAVX512(litLen *[litLenCodes]uint32, c *counters, tokens *token, n int) (matches, extraBits int)

func countVBMI2(s *weights, tokens []token) {
	if whole := len(tokens) &^ 15; whole > 0 {
		matches, extraBits := weighAVX512(&s.litLen, &s.counters, &tokens[0], whole)
		for _, sym := range s.counters.distances[:matches] {
			s.distance[sym%distanceCodes]++
		}
		s.extraBits += extraBits
		tokens = tokens[whole:]
	}
	s.addGo(tokens)
}

//go:noescape
func putTokensAVX512(dst *byte, tokens *token, n int, at, acc uint64, codes *tokenCodes) (left int, end, accOut uint64)

func putVBMI2(t *tokenCodes, w *bitWriter, tokens []token) {
	for len(tokens) >= 16 {
		whole := len(tokens) &^ 15
		left, end, acc := putTokensAVX512(&w.buf[0], &tokens[0], whole, uint64(w.n)*8+uint64(w.count), w.acc, t)
		w.n, w.count, w.acc = int(end>>3), uint(end&7), acc
		tokens = tokens[whole-left:]
		if left > 0 {
			// Two of the next tokens are too long to be written together.
			t.putGo(w, tokens[:16])
			tokens = tokens[16:]
		}
	}
	t.putGo(w, tokens)
}

//go:noescape
func decodeBlockVBMI2(d *Decoder, c *blockCode, patterns *copyPatterns) status

func decodeVBMI2(d *Decoder, c *blockCode) status { return decodeBlockVBMI2(d, c, &patterns) }

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

func zeroStepsVBMI2(p []byte) bool { return len(p) == 0 || zeroStepsAVX512(&p[0], len(p)) }
