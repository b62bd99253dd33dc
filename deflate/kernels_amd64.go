//go:build !noasm

package deflate

import "golang.org/x/sys/cpu"

// useAVX512 is true where the processor has all that the assembly needs, which
// is any with AVX-512 since Ice Lake and Zen 4.
var useAVX512 = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL &&
	cpu.X86.HasAVX512CD && cpu.X86.HasAVX512VBMI && cpu.X86.HasAVX512VBMI2 && cpu.X86.HasAVX512GFNI &&
	cpu.X86.HasBMI1 && cpu.X86.HasBMI2 && cpu.X86.HasPOPCNT

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
	putFixedGeneric(w, tokens)
}

func (d *Decoder) decode(c *blockCode) status { return d.decodeGeneric(c) }
func zeroSteps(p []byte) bool                 { return zeroStepsGeneric(p) }
