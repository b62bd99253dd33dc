package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/vmferry/vmferry/internal/probe/codec"
)

// tables returns everything measured, as Markdown that a terminal shows well.
func tables(results []codec.Result, targets []target) string {
	var b strings.Builder
	fmt.Fprintln(&b, "| codec         | compress MB/s | inflate MB/s | ratio | raw pages |")
	fmt.Fprintln(&b, "|---------------|--------------:|-------------:|------:|----------:|")
	for _, r := range results {
		fmt.Fprintf(&b, "| %-13s | %13.0f | %12.0f | %5.3f | %9d |\n",
			r.Codec, r.CompressMBps, r.InflateMBps, r.Ratio, r.RawPages)
	}
	fmt.Fprintln(&b)
	fmt.Fprintln(&b, "| target                                                    | value | at least |  aim | reached  |")
	fmt.Fprintln(&b, "|-----------------------------------------------------------|------:|---------:|-----:|----------|")
	for _, t := range targets {
		fmt.Fprintf(&b, "| %-57s | %5.2f | %8.2f | %4.1f | %-8s |\n", t.Name, t.Value, t.Least, t.Aim, t.verdict())
	}
	return b.String()
}

func writeResults(path string, results []codec.Result, targets []target) error {
	const head = `# Page codec: results

Notes. ` + "`scripts/bench-codec`" + ` writes this file; [codec.md](codec.md) says what is measured and how to
read it. Compare ratios within one run only: the machine is not named because the figures are not
for comparing machines.

`
	return os.WriteFile(path, []byte(head+tables(results, targets)), 0o644)
}
