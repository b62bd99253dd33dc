package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/internal/probe/codec"
)

type benchCmd struct {
	Codec  benchCodecCmd  `cmd:"" name:"codec" help:"Measure the page codec on a corpus of 4 KiB pages, on one core."`
	IAA    benchIAACmd    `cmd:"" name:"iaa" help:"Measure the accelerator; on a machine without one, the software codec that qpl then uses."`
	Faults benchFaultsCmd `cmd:"" name:"faults" help:"Measure the page faults of a destination, for each policy of zero pages and each kind of memory."`
}

type benchCodecCmd struct {
	Corpus string `help:"File of concatenated 4 KiB pages, plain or zstd; without it a generated corpus is used." placeholder:"FILE"`
	Tiers  bool   `help:"Measure every tier of the codec that this processor can run, not only the one in use."`
	JSON   bool   `name:"json" help:"Write one JSON object per line."`
}

func (c *benchCodecCmd) Run(a *app) error {
	var corpus io.Reader
	if c.Corpus != "" {
		f, err := os.Open(c.Corpus)
		if err != nil {
			return err
		}
		defer f.Close()
		corpus = f
	}
	var opts codec.Options
	if c.Tiers {
		opts.Tiers = deflate.Tiers()
	}
	results, err := codec.Run(a.ctx, corpus, opts)
	if err != nil {
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(a.stdout)
		for _, r := range results {
			if err := enc.Encode(r); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "codec\ttier\tcompress MB/s\tinflate MB/s\tratio\traw pages")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%s\t%.0f\t%.0f\t%.3f\t%d\n", r.Codec, r.Tier, r.CompressMBps, r.InflateMBps, r.Ratio, r.RawPages)
	}
	return w.Flush()
}
