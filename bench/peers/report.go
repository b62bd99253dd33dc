package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/internal/probe"
	"github.com/vmferry/vmferry/internal/probe/codec"
)

// label names the codec of a result, with its tier.
func label(r codec.Result) string {
	if r.Tier == "" {
		return r.Codec
	}
	return r.Codec + " (" + r.Tier + ")"
}

// tables returns the machine and all results, as tables in Markdown that are readable on a
// terminal too.
func tables(results []codec.Result, targets []target) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Processor: %s. Kernel: %s. Tiers of the page codec that this processor can run: %s; in use: %s.\n\n",
		probe.Processor(), probe.Kernel(), strings.Join(deflate.Tiers(), ", "), deflate.Tier())
	fmt.Fprintln(&b, "| codec                  | compress MB/s | inflate MB/s | ratio | raw pages |")
	fmt.Fprintln(&b, "|------------------------|--------------:|-------------:|------:|----------:|")
	for _, r := range results {
		fmt.Fprintf(&b, "| %-22s | %13.0f | %12.0f | %5.3f | %9d |\n",
			label(r), r.CompressMBps, r.InflateMBps, r.Ratio, r.RawPages)
	}
	if len(targets) == 0 {
		return b.String()
	}
	fmt.Fprintln(&b)
	fmt.Fprintln(&b, "| target                                                    | tier   | value  | at least |  aim  | reached  |")
	fmt.Fprintln(&b, "|-----------------------------------------------------------|--------|-------:|---------:|------:|----------|")
	for _, t := range targets {
		tier := t.Tier
		if tier == "" {
			tier = deflate.Tier()
		}
		fmt.Fprintf(&b, "| %-57s | %-6s | %6.2f | %8.2f | %5.2f | %-8s |\n", t.Name, tier, t.Value, t.Least, t.Aim, t.verdict())
	}
	return b.String()
}

func writeResults(path string, results []codec.Result, targets []target) error {
	const head = `# Page codec: results

Notes. ` + "`scripts/bench-codec`" + ` writes this file; [codec.md](codec.md) says what is measured and how to
read it. Compare ratios within one run only. A tier is measured on the processor that is named
here, not on the oldest one that can run it.

`
	return os.WriteFile(path, []byte(head+tables(results, targets)), 0o644)
}
