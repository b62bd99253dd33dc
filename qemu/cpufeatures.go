package qemu

import (
	"fmt"
	"math/bits"
	"strings"
)

// fromTopology are bits of feature words that follow from the number of CPUs,
// which some versions of QEMU count among the features and others do not.
var fromTopology = map[string]uint32{
	"1.EDX":        1 << 28, // ht
	"80000001.ECX": 1 << 1,  // cmp-legacy
}

// featureNames are QEMU's names of the bits of the common feature words, from
// bit 0 on; "-" has none.
var featureNames = map[string][]string{
	"1.EDX":        strings.Fields("fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - ds acpi mmx fxsr sse sse2 ss ht tm ia64 pbe"),
	"1.ECX":        strings.Fields("pni pclmulqdq dtes64 monitor ds-cpl vmx smx est tm2 ssse3 cid - fma cx16 xtpr pdcm - pcid dca sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave - avx f16c rdrand hypervisor"),
	"7.0.EBX":      strings.Fields("fsgsbase tsc-adjust sgx bmi1 hle avx2 fdp-excptn-only smep bmi2 erms invpcid rtm - zero-fcs-fds mpx - avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt clwb intel-pt avx512pf avx512er avx512cd sha-ni avx512bw avx512vl"),
	"7.0.ECX":      strings.Fields("- avx512vbmi umip pku - waitpkg avx512vbmi2 - gfni vaes vpclmulqdq avx512vnni avx512bitalg - avx512-vpopcntdq - la57 - - - - - rdpid - bus-lock-detect cldemote - movdiri movdir64b - sgxlc pks"),
	"80000001.EDX": strings.Fields("- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr-opt pdpe1gb rdtscp - lm 3dnowext 3dnow"),
	"80000001.ECX": strings.Fields("lahf-lm cmp-legacy svm extapic cr8legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp fma4 tce - nodeid-msr - tbm topoext perfctr-core perfctr-nb"),
}

// nameFeatures names the bits of a feature word.
func nameFeatures(word string, set uint32) []string {
	var found []string
	for ; set != 0; set &= set - 1 {
		bit := bits.TrailingZeros32(set)
		if names := featureNames[word]; bit < len(names) && names[bit] != "-" {
			found = append(found, names[bit])
		} else {
			found = append(found, fmt.Sprintf("CPUID[%s] bit %d", word, bit))
		}
	}
	return found
}
