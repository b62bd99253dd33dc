package harness

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vmferry/vmferry/internal/probe"
)

// Section is a section of a document about a benchmark.
type Section struct {
	Part     string // of the benchmark, as its flags name it
	Title    string
	Text     []string // paragraphs
	Head     []string
	Rows     [][]string
	Findings []string
	Charts   []NamedChart
	More     []Section // further tables
}

// NamedChart is a chart with its file.
type NamedChart struct {
	File  string
	Chart interface{ WriteSVG(io.Writer) error }
}

// WriteMarkdown writes the section without its title.
func (s *Section) WriteMarkdown(b *bytes.Buffer) {
	for _, p := range s.Text {
		fmt.Fprintf(b, "%s\n\n", p)
	}
	WriteTable(b, s.Head, s.Rows)
	if len(s.Findings) > 0 {
		b.WriteString("\n")
	}
	for _, f := range s.Findings {
		fmt.Fprintf(b, "- %s\n", f)
	}
	for _, c := range s.Charts {
		fmt.Fprintf(b, "\n![%s](%s)\n", strings.TrimSuffix(c.File, ".svg"), c.File)
	}
	for i := range s.More {
		b.WriteString("\n")
		s.More[i].WriteMarkdown(b)
	}
}

// WriteDocument writes a document and the charts of its sections to a folder.
func WriteDocument(dir, name string, markdown []byte, sections []Section) error {
	errs := []error{os.WriteFile(filepath.Join(dir, name), markdown, 0o644)}
	for _, s := range sections {
		for _, c := range s.Charts {
			var b bytes.Buffer
			if err := c.Chart.WriteSVG(&b); err != nil {
				errs = append(errs, err)
				continue
			}
			errs = append(errs, os.WriteFile(filepath.Join(dir, c.File), b.Bytes(), 0o644))
		}
	}
	return errors.Join(errs...)
}

// MemoryReporting returns a paragraph if the kernel of this virtual machine reports free
// memory to its host. The host then takes the memory back, and the next access to it costs
// more.
func MemoryReporting() string {
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

// Ratio returns the median of the ratios of two ways to measure, within each run that both
// have.
func Ratio[T any](a, b []T, of func(T) float64) float64 {
	var v []float64
	for i := range min(len(a), len(b)) {
		v = append(v, of(a[i])/of(b[i]))
	}
	return probe.Median(v)
}

// Verdict says whether an aim was reached.
func Verdict(ok bool) string {
	if ok {
		return "reached"
	}
	return "missed"
}
