package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/vmferry/vmferry/bench/harness"
)

// section is the result of one part.
type section struct {
	part, title string
	text        []string // paragraphs
	head        []string
	rows        [][]string
	findings    []string
	charts      []namedChart
	more        []section // further tables
}

type namedChart struct {
	file  string
	chart interface{ WriteSVG(io.Writer) error }
}

// report is the document with all sections.
type report struct {
	bench    *bench
	sections []section
}

func (r *report) markdown() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Live migration: results\n\n"+
		"Notes, written by `make bench-live`: `scripts/setup demo` prepares QEMU, and `cd bench && go run ./live` measures. "+
		"The command above each table measures that part alone.\n\n"+
		"Medians of %d runs, cells in turn; ratios are medians of the ratios within each run. Source, destination and the writers share %d cores: "+
		"**absolute times mean little, compare rows of one table.** Each side is a process of its own; they are connected by loopback TCP. "+
		"After each migration between Go programs all memory was compared, and the handover was verified.%s\n", r.bench.runs, runtime.NumCPU(), reporting())
	for i := range r.sections {
		s := &r.sections[i]
		fmt.Fprintf(&b, "\n## %s\n\n`cd bench && go run ./live -only %s%s`\n\n", s.title, s.part, r.flags())
		s.body(&b)
	}
	return b.Bytes()
}

// reporting returns a paragraph if the kernel of this virtual machine reports free memory to
// its host. The host then takes the memory back, and the next access to it costs more.
func reporting() string {
	text, err := os.ReadFile("/sys/module/page_reporting/parameters/page_reporting_order")
	if err != nil {
		return ""
	}
	order, err := strconv.Atoi(strings.TrimSpace(string(text)))
	const largest = 10 // the largest order on x86
	switch {
	case err != nil:
		return ""
	case order > largest:
		return "\n\nThe kernel can report free memory to the host of this virtual machine. That was turned off."
	}
	return "\n\n**The kernel reports free memory to the host of this virtual machine**, which takes the memory back. The next access to it costs more, sometimes several times as much. " +
		"(To turn this off for the measurement, write a number above 10 to /sys/module/page_reporting/parameters/page_reporting_order.)"
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

func (s *section) body(b *bytes.Buffer) {
	for _, p := range s.text {
		fmt.Fprintf(b, "%s\n\n", p)
	}
	harness.WriteTable(b, s.head, s.rows)
	if len(s.findings) > 0 {
		b.WriteString("\n")
	}
	for _, f := range s.findings {
		fmt.Fprintf(b, "- %s\n", f)
	}
	for _, c := range s.charts {
		fmt.Fprintf(b, "\n![%s](%s)\n", strings.TrimSuffix(c.file, ".svg"), c.file)
	}
	for i := range s.more {
		b.WriteString("\n")
		s.more[i].body(b)
	}
}

// write writes the document and its charts.
func (r *report) write(dir string) error {
	errs := []error{os.WriteFile(filepath.Join(dir, "live-results.md"), r.markdown(), 0o644)}
	for _, s := range r.sections {
		for _, c := range s.charts {
			var b bytes.Buffer
			if err := c.chart.WriteSVG(&b); err != nil {
				errs = append(errs, err)
				continue
			}
			errs = append(errs, os.WriteFile(filepath.Join(dir, c.file), b.Bytes(), 0o644))
		}
	}
	return errors.Join(errs...)
}

func f0(v float64) string { return fmt.Sprintf("%.0f", v) }
func f1(v float64) string { return fmt.Sprintf("%.1f", v) }
func f2(v float64) string { return fmt.Sprintf("%.2f", v) }
func f3(v float64) string { return fmt.Sprintf("%.3f", v) }
