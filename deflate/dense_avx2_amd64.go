//go:build !noasm

package deflate

//go:noescape
func findLazyAVX2(m *matcher, s *weights) (pos, ntok int, holes bool)

// findAVX2 finds the tokens that findLazyGo finds.
func findAVX2(m *matcher, s *weights) bool {
	if m.n < enterLeast || m.n > maxDistance {
		return findLazyGo(m, s)
	}
	pos, ntok, holes := findLazyAVX2(m, s)
	if ntok == pos && looksRandom(m.page()) {
		return false
	}
	if holes {
		clear(s.litLen[:])
		ntok, pos = 0, 0
	}
	m.ntok = m.literals(s, ntok, pos, m.n)
	return true
}

//go:noescape
func putTokensAVX2(dst *byte, tokens *token, n int, codes *tokenCodes, count uint, acc uint64) (size, left int, countOut uint, accOut uint64)

func putAVX2(t *tokenCodes, w *bitWriter, tokens []token) {
	if len(tokens) > 0 {
		size, left, count, acc := putTokensAVX2(&w.buf[w.n], &tokens[0], len(tokens), t, w.count, w.acc)
		w.n, w.count, w.acc = w.n+size, count, acc
		tokens = tokens[len(tokens)-left:]
	}
	t.putGo(w, tokens)
}
