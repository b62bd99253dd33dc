//go:build !amd64 || noasm

package deflate

func (m *matcher) find(lazy bool)             { m.findGeneric(lazy) }
func putFixed(w *bitWriter, tokens []token)   { fixedCodes.put(w, tokens) }
func (d *Decoder) decode(c *blockCode) status { return d.decodeGeneric(c) }
func zeroSteps(p []byte) bool                 { return zeroStepsGeneric(p) }

func (s *weights) add(tokens []token)                        { s.addGeneric(tokens) }
func (t *tokenCodes) putTokens(w *bitWriter, tokens []token) { t.put(w, tokens) }
func (c *canonical) sort(lens []uint8)                       { c.sortGeneric(lens) }

// What the assembly needs besides.
type (
	counters struct{}
	scratch  struct{}
)
