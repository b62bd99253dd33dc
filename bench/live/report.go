package main

import (
	"bytes"
	"fmt"
	"runtime"

	"github.com/vmferry/vmferry/bench/harness"
)

// report is the document with all sections.
type report struct {
	bench    *bench
	sections []harness.Section
}

func (r *report) markdown() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Live migration: results\n\n"+
		"Notes, written by `make bench-live`: `scripts/setup demo` prepares QEMU, and `cd bench && go run ./live` measures. "+
		"The command above each table measures that part alone.\n\n"+
		"Medians of %d runs, cells in turn; ratios are medians of the ratios within each run. Source, destination and the writers share %d cores: "+
		"**absolute times mean little, compare rows of one table.** Each side is a process of its own; they are connected by loopback TCP. "+
		"After each migration between Go programs all memory was compared, and the handover was verified.%s\n", r.bench.runs, runtime.NumCPU(), harness.MemoryReporting())
	for i := range r.sections {
		s := &r.sections[i]
		fmt.Fprintf(&b, "\n## %s\n\n`cd bench && go run ./live -only %s%s`\n\n", s.Title, s.Part, r.flags())
		s.WriteMarkdown(&b)
	}
	return b.Bytes()
}

// flags returns the flags that change the measurement and differ from their defaults.
func (r *report) flags() string {
	var f string
	for _, v := range []struct {
		name    string
		is, not int
	}{{"runs", r.bench.runs, 5}, {"memory", r.bench.memoryMiB, 1024}, {"channels", r.bench.channels, 2}, {"largest", r.bench.largestMiB, 8192}} {
		if v.is != v.not {
			f += fmt.Sprintf(" -%s %d", v.name, v.is)
		}
	}
	return f
}

// write writes the document and its charts.
func (r *report) write(dir string) error {
	return harness.WriteDocument(dir, "live-results.md", r.markdown(), r.sections)
}

func f0(v float64) string { return fmt.Sprintf("%.0f", v) }
func f1(v float64) string { return fmt.Sprintf("%.1f", v) }
func f2(v float64) string { return fmt.Sprintf("%.2f", v) }
func f3(v float64) string { return fmt.Sprintf("%.3f", v) }
