// Peers compares the page codec with C libraries for the same purpose, on one corpus of 4 KiB
// pages, in one process and on one core.
//
// Usage:
//
//	peers [-passes N] [-json] [-results FILE] [-chart FILE] CORPUS
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
	"runtime"

	"github.com/vmferry/vmferry/internal/probe/codec"
)

func main() {
	passes := flag.Int("passes", 5, "passes over the corpus")
	asJSON := flag.Bool("json", false, "print one JSON object a line")
	results := flag.String("results", "", "write tables in Markdown to this file")
	chart := flag.String("chart", "", "draw speed against ratio, as SVG, to this file")
	flag.Parse()
	if flag.NArg() > 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, flag.Arg(0), *passes, *asJSON, *results, *chart); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, path string, passes int, asJSON bool, resultsPath, chartPath string) error {
	pages, err := load(path)
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	peers := append(ownModes(), cPeers()...)
	peers = append(peers, klauspost())
	results, err := measure(ctx, pages, peers, passes)
	if err != nil {
		return err
	}
	qpl, err := measureQPL(ctx, pages, passes)
	if err != nil {
		return err
	}
	results = append(results, qpl...)
	extra, err := measureExtremes(ctx, passes)
	if err != nil {
		return err
	}
	targets := compare(results, extra)

	if asJSON {
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
	if resultsPath != "" {
		if err := writeResults(resultsPath, results, targets); err != nil {
			return err
		}
	}
	if chartPath != "" {
		return os.WriteFile(chartPath, drawChart(results), 0o644)
	}
	return nil
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
