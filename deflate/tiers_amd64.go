//go:build !noasm

package deflate

import "golang.org/x/sys/cpu"

// What the tiers need. The processors that are named are the first ones.
var (
	// Haswell, Zen 1.
	hasAVX2 = cpu.X86.HasAVX2 && cpu.X86.HasBMI1 && cpu.X86.HasBMI2 && cpu.X86.HasPOPCNT
	// Skylake-SP.
	hasAVX512 = hasAVX2 && cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ &&
		cpu.X86.HasAVX512VL && cpu.X86.HasAVX512CD
	// Ice Lake, Zen 4.
	hasVBMI2 = hasAVX512 && cpu.X86.HasAVX512VBMI && cpu.X86.HasAVX512VBMI2 && cpu.X86.HasAVX512GFNI
)

// tiers are the tiers of this build, the best first.
var tiers = []*tier{
	{
		name: "vbmi2", needs: "AVX-512 with VBMI, VBMI2 and GFNI", runs: hasVBMI2,
		routines: routines{
			fast:      fastAVX512,
			find:      findAVX512,
			put:       putAVX512,
			sort:      sortVBMI2,
			decode:    decodeVBMI2,
			zeroSteps: zeroStepsAVX512,
		},
	},
	{
		name: "avx512", needs: "AVX-512 F, BW, DQ, VL and CD", runs: hasAVX512,
		routines: routines{
			fast:      fastAVX512,
			find:      findAVX512,
			put:       putAVX512,
			sort:      (*canonical).sortGo,
			decode:    decodeAVX2,
			zeroSteps: zeroStepsAVX512,
		},
	},
	{
		name: "avx2", needs: "AVX2, BMI1, BMI2 and POPCNT", runs: hasAVX2,
		routines: routines{
			fast:      fastAVX2,
			find:      findAVX2,
			put:       putAVX2,
			sort:      (*canonical).sortGo,
			decode:    decodeAVX2,
			zeroSteps: zeroStepsAVX2,
		},
	},
	{name: "go", runs: true, routines: goRoutines},
}
