package probe

import "testing"

func TestDescribeProcessor_NamesWhatCompressionUses(t *testing.T) {
	const cpuinfo = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 207\nmodel name\t: Some Processor\nflags\t\t: fpu avx2 avx512f avx512_vbmi2 gfni\nprocessor\t: 1\nmodel name\t: Some Processor\n"
	if got, want := describeProcessor(cpuinfo), "Some Processor, family 6, model 207; avx2 avx512f avx512_vbmi2 gfni"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := describeProcessor("processor\t: 0\nBogoMIPS\t: 50\n"), "unknown processor"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
