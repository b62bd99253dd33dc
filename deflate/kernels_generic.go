//go:build !amd64 || noasm

package deflate

func (m *matcher) find(lazy bool)             { m.findGeneric(lazy) }
func putFixed(w *bitWriter, tokens []token)   { putFixedGeneric(w, tokens) }
func (d *Decoder) decode(c *blockCode) status { return d.decodeGeneric(c) }
func zeroSteps(p []byte) bool                 { return zeroStepsGeneric(p) }
