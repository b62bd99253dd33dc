//go:build !noasm

package deflate

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The name of an assembly routine ends with the instructions that it needs: AVX2, AVX512 or
// VBMI2. A processor that has more instructions than a tier needs would not notice one that
// is too new, so this reads the sources.
func TestInstructions_OfEachRoutineAreThoseOfItsName(t *testing.T) {
	files, err := filepath.Glob("*_amd64.s")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files of assembly, error %v", len(files), err)
	}
	for _, file := range files {
		source := readAssembly(t, file)
		if len(source.routines) == 0 {
			t.Errorf("%s has no routine", file)
		}
		for name, body := range source.routines {
			needs := needsOf(name)
			if needs == "" {
				t.Errorf("%s: the name of %s does not say what it needs", file, name)
				continue
			}
			for _, line := range source.expand(body, nil) {
				if why := tooNew(line, needs); why != "" {
					t.Errorf("%s: %s has %q: %s", file, name, line, why)
				}
			}
		}
	}
}

// The check finds what it is for, in macros and in macros of macros too.
func TestInstructions_TooNewOnesAreFound(t *testing.T) {
	source := parseAssembly(`
#define REVERSE(r) \
	VGF2P8AFFINEQB $0, Z1, r, r
#define BOTH(a, b) \
	MOVQ AX, BX; REVERSE(a) \
	REVERSE(b)
// VPERMB in a comment
TEXT ·oneAVX512(SB), NOSPLIT, $0-0
again: VPADDD Z1, Z2, Z2 // not VPERMB
	RET
TEXT ·twoAVX512(SB), NOSPLIT, $0-0
	BOTH(Z1, Z2)
	RET
`)
	for name, want := range map[string]int{"oneAVX512": 0, "twoAVX512": 2} {
		found := 0
		for _, line := range source.expand(source.routines[name], nil) {
			if tooNew(line, "AVX512") != "" {
				found++
			}
		}
		if found != want {
			t.Errorf("%s: %d instructions are too new, want %d", name, found, want)
		}
	}
	for line, needs := range map[string]string{
		"VPCOMPRESSW.Z Z1, K1, Z2": "AVX512", "VPSHLDVD Z1, Z2, Z3": "AVX512", "VPOPCNTQ Z1, Z2": "AVX512",
		"VPADDD Z1, Z2, Z3": "AVX2", "VPADDD Y1, Y2, Y16": "AVX2", "KMOVQ K1, AX": "AVX2",
		"VPLZCNTD Y1, Y2": "AVX2", "VPTERNLOGD $1, Y1, Y2, Y3": "AVX2", "VMOVDQU32 (SI), Y0": "AVX2",
	} {
		if tooNew(line, needs) == "" {
			t.Errorf("%s passes for %s", line, needs)
		}
	}
	for line, needs := range map[string]string{
		"VPCOMPRESSW.Z Z1, K1, Z2": "VBMI2", "VPCOMPRESSD.Z Z1, K1, Z2": "AVX512", "VPERMD Y1, Y2, Y3": "AVX2",
		"VMOVDQU (SI), Y15": "AVX2", "SHLXQ CX, AX, AX": "AVX2", "VPERMI2W 64(R10), Z19, Z2": "AVX512",
	} {
		if why := tooNew(line, needs); why != "" {
			t.Errorf("%s does not pass for %s: %s", line, needs, why)
		}
	}
}

// needsOf returns the end of a routine's name, "" if it is none of the tiers' instructions.
func needsOf(name string) string {
	for _, needs := range []string{"AVX2", "AVX512", "VBMI2"} {
		if strings.HasSuffix(name, needs) {
			return needs
		}
	}
	return ""
}

var (
	// laterThanSkylake are the vector instructions that came after AVX-512 F, BW, DQ, VL and
	// CD: VBMI, VBMI2, GFNI, BITALG, VPOPCNTDQ, IFMA, VNNI, and wider AES and CLMUL. Those of
	// Xeon Phi are among them.
	laterThanSkylake = regexp.MustCompile(`^(VPERM(B|I2B|T2B)|VPMULTISHIFTQB|VP(COMPRESS|EXPAND)[BW]|VPSH[LR]D\w*|VGF2P8\w+|GF2P8\w+|` +
		`VPOPCNT[BWDQ]|VPSHUFBITQMB|VPMADD52\w+|VPDP\w+|VAES\w+|VPCLMULQDQ|V4F\w+|VP4D\w+|VEXP2\w+|VRCP28\w+|VRSQRT28\w+|V(GATHER|SCATTER)PF\w+|` +
		`VP2INTERSECT[DQ]|SHA\w+)$`)
	// evexOnly are the instructions of AVX-512 that may have no operand that only AVX-512 has.
	evexOnly = regexp.MustCompile(`^(K[A-Z]+[BWDQ]|VMOVDQ[AU](8|16|32|64)|VP(AND|ANDN|OR|XOR)[DQ]|VPTERNLOG[DQ]|VPLZCNT[DQ]|VPCONFLICT[DQ]|VP(COMPRESS|EXPAND)[DQ]|` +
		`VALIGN[DQ]|VPERM(W|[IT]2\w+)|VPRO[LR]V?[DQ]|VPS(LL|RL|RA)VW|VPSRA(Q|VQ)|VPABSQ|VP(MIN|MAX)[SU]Q|VPMULLQ|VPCMPU?[BWDQ]|VPTESTN?M[BWDQ]|` +
		`VPMOV(U?S)?(WB|DB|DW|QB|QW|QD)|VPMOVM2[BWDQ]|VPMOV[BWDQ]2M|VPBLENDM[BWDQ]|VPSCATTER\w+|VDBPSADBW|V(BROADCAST|EXTRACT|INSERT)[IF](32|64)X\d|VSHUF[IF]\d+X\d)$`)
	onlyAVX512Has = regexp.MustCompile(`\b(Z\d+|K[0-7]|[XY](1[6-9]|[23]\d))\b`)
)

// tooNew says why a routine that needs only the given instructions must not have one, or "".
func tooNew(line, needs string) string {
	mnemonic, operands, _ := strings.Cut(strings.TrimSpace(line), " ")
	mnemonic, _, _ = strings.Cut(mnemonic, ".")
	switch {
	case needs != "VBMI2" && laterThanSkylake.MatchString(mnemonic):
		return "processors with AVX-512 F, BW, DQ, VL and CD may lack it"
	case needs == "AVX2" && (evexOnly.MatchString(mnemonic) || onlyAVX512Has.MatchString(operands)):
		return "processors with AVX2 may lack it"
	}
	return ""
}

// assembly is a parsed source of Go's assembler.
type assembly struct {
	macros, routines map[string][]string // lines by name
}

func readAssembly(t *testing.T, file string) *assembly {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	include := regexp.MustCompile(`(?m)^#include "(\w+_amd64\.h)"$`)
	whole := include.ReplaceAllStringFunc(string(text), func(line string) string {
		header, err := os.ReadFile(include.FindStringSubmatch(line)[1])
		if err != nil {
			t.Fatal(err)
		}
		return string(header)
	})
	return parseAssembly(whole)
}

func parseAssembly(text string) *assembly {
	a := &assembly{make(map[string][]string), make(map[string][]string)}
	define, start := regexp.MustCompile(`^#define\s+(\w+)(\([^)]*\))?(.*)`), regexp.MustCompile(`^TEXT\s+·(\w+)`)
	label := regexp.MustCompile(`^\s*\w+:`)
	routine, macro := "", ""
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "//")
		body, goesOn := strings.CutSuffix(strings.TrimSpace(line), `\`)
		to := &a.routines
		name := routine
		switch {
		case define.MatchString(line):
			parts := define.FindStringSubmatch(body)
			macro, body = parts[1], parts[3]
			a.macros[macro] = nil
		case start.MatchString(line):
			routine = start.FindStringSubmatch(line)[1]
			continue
		}
		if macro != "" {
			to, name = &a.macros, macro
		}
		if !goesOn {
			macro = ""
		}
		if name == "" {
			continue // a directive
		}
		for instruction := range strings.SplitSeq(body, ";") {
			instruction = strings.TrimSpace(label.ReplaceAllString(instruction, ""))
			if instruction != "" && !strings.HasPrefix(instruction, "#") {
				(*to)[name] = append((*to)[name], instruction)
			}
		}
	}
	return a
}

// expand returns lines with the instructions of the macros that they call.
func (a *assembly) expand(lines, within []string) (all []string) {
	call := regexp.MustCompile(`^(\w+)`)
	for _, line := range lines {
		name := call.FindString(line)
		body, ok := a.macros[name]
		if !ok {
			all = append(all, line)
			continue
		}
		if slices.Contains(within, name) {
			panic(fmt.Sprintf("macro %s calls itself", name))
		}
		// The operands of the call are registers of the instructions.
		all = append(all, line)
		all = append(all, a.expand(body, append(within, name))...)
	}
	return all
}
