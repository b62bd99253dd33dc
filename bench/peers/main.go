// Peers compares the page codec with C libraries for the same purpose, on one corpus of 4 KiB
// pages, in one process and on one core.
//
// Usage:
//
//	peers [-passes N] [-quick] [-only NAMES] [-tiers NAMES] [-json] [-results FILE] [-chart FILE] CORPUS
//
// The page codec takes part once for each of its tiers that this processor can run, or that
// -tiers names. -only names codecs, separated by commas; deflate-fast and deflate-dense stand
// for all tiers. -quick takes every fourth MiB of the corpus and three passes. Both leave out
// what is not measured on the corpus, and are for developers of the codec.
//
// CORPUS holds consecutive pages, possibly as a zstd stream. In each pass, the libraries
// process the corpus in turn, so that other work on the machine affects all of them. The
// program measures the CPU time of the thread for each piece of 1 MiB, and uses the fastest
// pass of each piece. All buffers are written before the first clock starts.
//
// The libraries come from Debian's development packages of isal, libdeflate, zlib, libzstd
// and liblz4. If VMFERRY_FORKY is a folder with a Debian that has libqpl-dev, the program
// measures the software path of libqpl too.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/internal/probe/codec"
)

// options are the flags.
type options struct {
	passes         int
	quick          bool
	only, tiers    []string // nil means all
	asJSON         bool
	results, chart string
}

// partial reports whether some of the measurements are left out.
func (o *options) partial() bool { return o.quick || o.only != nil || o.tiers != nil }

// wants reports whether a codec is measured. Its name is without the tier.
func (o *options) wants(codec string) bool { return o.only == nil || slices.Contains(o.only, codec) }

func main() {
	var o options
	list := func(to *[]string) func(string) error {
		return func(s string) error { *to = strings.Split(s, ","); return nil }
	}
	flag.IntVar(&o.passes, "passes", 5, "passes over the corpus")
	flag.BoolVar(&o.quick, "quick", false, "measure a quarter of the corpus in three passes")
	flag.Func("only", "measure these codecs only, such as isal-0,deflate-fast", list(&o.only))
	flag.Func("tiers", "measure these tiers of the page codec only, such as avx2,go", list(&o.tiers))
	flag.BoolVar(&o.asJSON, "json", false, "print one JSON object a line")
	flag.StringVar(&o.results, "results", "", "write tables in Markdown to this file")
	flag.StringVar(&o.chart, "chart", "", "draw speed against ratio, as SVG, to this file")
	flag.Parse()
	if flag.NArg() > 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, flag.Arg(0), o); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, path string, o options) error {
	if err := deflate.EnvironmentError(); err != nil {
		return err
	}
	pages, err := load(path)
	if err != nil {
		return err
	}
	if o.quick {
		pages, o.passes = everyFourthPiece(pages), 3
	}
	results, err := measureCodecs(ctx, pages, &o)
	if err != nil {
		return err
	}
	targets := compare(results)
	if !o.partial() {
		extra, err := measureExtremes(ctx, o.passes)
		if err != nil {
			return err
		}
		targets = append(targets, extra.targets()...)
	}
	return write(results, targets, &o)
}

// measureCodecs measures the codecs that o wants.
func measureCodecs(ctx context.Context, pages []byte, o *options) ([]codec.Result, error) {
	tiers := o.tiers
	if tiers == nil {
		tiers = deflate.Tiers()
	}
	own, err := ownModes(tiers)
	if err != nil {
		return nil, err
	}
	peers := append(append(own, cPeers()...), klauspost())
	peers = slices.DeleteFunc(peers, func(p peer) bool { return !o.wants(p.name) })
	results, err := measure(ctx, pages, peers, o.passes)
	if err != nil {
		return nil, err
	}
	if o.wants("qpl-fixed") || o.wants("qpl-dynamic") {
		qpl, err := measureQPL(ctx, pages, o.passes)
		if err != nil {
			return nil, err
		}
		results = append(results, slices.DeleteFunc(qpl, func(r codec.Result) bool { return !o.wants(r.Codec) })...)
	}
	if len(results) == 0 {
		return nil, fmt.Errorf("no codec is called %s", strings.Join(o.only, " or "))
	}
	return results, nil
}

// write prints the figures and writes the files that o names.
func write(results []codec.Result, targets []target, o *options) error {
	if o.asJSON {
		enc := json.NewEncoder(os.Stdout)
		for _, r := range results {
			if err := enc.Encode(r); err != nil {
				return err
			}
		}
		for _, t := range targets {
			if err := enc.Encode(t); err != nil {
				return err
			}
		}
	} else {
		fmt.Print(tables(results, targets))
	}
	if o.results != "" {
		if err := writeResults(o.results, results, targets); err != nil {
			return err
		}
	}
	if o.chart != "" {
		return os.WriteFile(o.chart, drawChart(results), 0o644)
	}
	return nil
}

// everyFourthPiece returns the first of every four pieces of pages.
func everyFourthPiece(pages []byte) []byte {
	const piece = piecePages * pageSize
	var part []byte
	for at := 0; at < len(pages); at += 4 * piece {
		part = append(part, pages[at:min(at+piece, len(pages))]...)
	}
	return part
}

// load reads the corpus, or the built-in one if path is empty.
func load(path string) ([]byte, error) {
	if path == "" {
		return codec.Load(nil, codec.Options{})
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return codec.Load(f, codec.Options{})
}
