//go:build !noasm

package deflate

// scratch is the state of findTokensAVX512 for one block and the next two.
//
//lint:ignore U1000 only the assembly looks inside
type scratch struct {
	bucket [2][blockLen]uint32 // where each position's word hashes to
	fresh  [2][blockLen]uint32 // the entry that it writes there
	old    [blockLen]uint32    // the entry that it reads there
	// dist is distance-1 of each candidate. The assembly reads one element behind the
	// last, which must be a valid distance too.
	dist [blockLen + 1]uint32
}

//go:noescape
func findTokensAVX512(m *matcher, lazy bool)

func findAVX512(m *matcher, s *weights) bool {
	findTokensAVX512(m, true)
	if m.incompressible() && looksRandom(m.page()) {
		return false
	}
	countAVX512(s, m.tokens())
	return true
}

func fastAVX512(e *Encoder) {
	findTokensAVX512(&e.match, false)
	if !e.match.incompressible() {
		encodeFixed(&e.out, e.match.tokens(), putFixedAVX512)
	}
}

//go:noescape
func writeFixedAVX512(dst *byte, tokens *token, n int, at, acc uint64) (end, accOut uint64)

func putFixedAVX512(w *bitWriter, tokens []token) {
	if whole := len(tokens) &^ 15; whole > 0 {
		end, acc := writeFixedAVX512(&w.buf[0], &tokens[0], whole, uint64(w.n)*8+uint64(w.count), w.acc)
		w.n, w.count, w.acc = int(end>>3), uint(end&7), acc
		tokens = tokens[whole:]
	}
	fixedCodes.putGo(w, tokens)
}

// counters are the counters of countTokensAVX512.
type counters struct {
	//lint:ignore U1000 only the assembly looks at it
	litLen    [4][litLenCodes]uint32
	distances [MaxPageSize/minMatch + 16]uint32
}

//go:noescape
func countTokensAVX512(litLen *[litLenCodes]uint32, c *counters, tokens *token, n int) (matches int)

func countAVX512(s *weights, tokens []token) {
	if whole := len(tokens) &^ 15; whole > 0 {
		matches := countTokensAVX512(&s.litLen, &s.counters, &tokens[0], whole)
		for _, sym := range s.counters.distances[:matches] {
			s.distance[sym%distanceCodes]++
		}
		tokens = tokens[whole:]
	}
	s.add(tokens)
}

//go:noescape
func writeTokensAVX512(dst *byte, tokens *token, n int, at, acc uint64, codes *tokenCodes) (left int, end, accOut uint64)

func putAVX512(t *tokenCodes, w *bitWriter, tokens []token) {
	for len(tokens) >= 16 {
		whole := len(tokens) &^ 15
		left, end, acc := writeTokensAVX512(&w.buf[0], &tokens[0], whole, uint64(w.n)*8+uint64(w.count), w.acc, t)
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
func zeroBytesAVX512(p *byte, n int) bool

func zeroStepsAVX512(p []byte) bool { return len(p) == 0 || zeroBytesAVX512(&p[0], len(p)) }
