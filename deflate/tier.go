package deflate

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
)

// routines are the inner loops of the codec. Every tier has all of them: those that it
// does not speed up are the ones of the tier "go".
type routines struct {
	// fast writes the page of e.match to e.out as one final block in the fixed code. It
	// writes nothing if it finds no match.
	fast func(e *Encoder)
	// find fills in the tokens of m, for Dense, and adds their symbols to s. It returns
	// false, and may have done neither, if the page cannot shrink: it has no match and
	// looks random.
	find func(m *matcher, s *weights) bool
	// put writes tokens in the codes of t.
	put func(t *tokenCodes, w *bitWriter, tokens []token)
	// sort fills in c from lens, the length of each symbol's code or zero.
	sort func(c *canonical, lens []uint8)
	// decode decodes the symbols of a block into d.out until it has to stop.
	decode func(d *Decoder, c *blockCode) status
	// zeroSteps reports whether p, a multiple of zeroStep bytes, is all zero.
	zeroSteps func(p []byte) bool
}

// tier is a set of routines for processors with certain instructions.
type tier struct {
	name  string
	needs string // the instructions, for an error
	runs  bool   // on this processor
	routines
}

// goRoutines are the routines of the tier "go", which runs everywhere.
var goRoutines = routines{
	fast:      fastGo,
	find:      findLazyGo,
	put:       (*tokenCodes).putGo,
	sort:      (*canonical).sortGo,
	decode:    (*Decoder).decodeGo,
	zeroSteps: zeroStepsGo,
}

// Auto is the name of the best tier that this processor has, for [UseTier].
const Auto = "auto"

// Environment is the environment variable that names the tier a process starts with.
const Environment = "VMFERRY_DEFLATE"

var (
	active         atomic.Pointer[tier]
	environmentErr error
)

func init() {
	active.Store(bestTier())
	if name := os.Getenv(Environment); name != "" {
		if err := UseTier(name); err != nil {
			environmentErr = fmt.Errorf("%s: %w", Environment, err)
		}
	}
}

// EnvironmentError returns the error of the environment variable VMFERRY_DEFLATE: it
// names a tier that does not exist or that this processor cannot run. The best tier is in
// use then. A program that lets its user set the variable should fail with this error.
func EnvironmentError() error { return environmentErr }

// Tier returns the name of the tier that is in use: "vbmi2", "avx512", "avx2" or "go".
func Tier() string { return active.Load().name }

// Tiers returns the names of the tiers that this processor can run, the best first. The
// last one is "go".
func Tiers() []string {
	var names []string
	for _, t := range tiers {
		if t.runs {
			names = append(names, t.name)
		}
	}
	return names
}

// UseTier makes the Encoders and Decoders that are created from now on, and [IsZero], use
// the tier of that name. [Auto] names the best one. It is for measurements and tests:
// without it, and without VMFERRY_DEFLATE, the best tier is in use.
func UseTier(name string) error {
	if name == Auto {
		active.Store(bestTier())
		return nil
	}
	for _, t := range tiers {
		switch {
		case t.name != name:
		case !t.runs:
			return fmt.Errorf("this processor cannot run the tier %s, which needs %s (it can run %s)",
				name, t.needs, strings.Join(Tiers(), ", "))
		default:
			active.Store(t)
			return nil
		}
	}
	return fmt.Errorf("no tier is called %q (this processor can run %s; %s takes the first of these)",
		name, strings.Join(Tiers(), ", "), Auto)
}

func bestTier() *tier {
	for _, t := range tiers {
		if t.runs {
			return t
		}
	}
	panic("deflate: no tier runs everywhere")
}
