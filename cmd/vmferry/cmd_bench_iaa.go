package main

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/internal/probe/destination"
	iaaprobe "github.com/vmferry/vmferry/internal/probe/iaa"
)

type benchIAACmd struct {
	JSON        bool    `name:"json" help:"Write JSON."`
	Destination string  `help:"Model only a destination with accelerators, in virtual time: its memory is preallocated (prealloc), or fresh with a bitmap of received pages (fresh), or fresh and scanned for zero pages (scan)." placeholder:"MEMORY"`
	Model       bool    `help:"Refused: the model of the driver's throughput is in the benchmark module (cd bench && go run ./iaa)."`
	Dynamic     bool    `help:"Use dynamic Huffman codes instead of fixed ones."`
	CPU         float64 `name:"cpu" default:"1" help:"Largest share of the processor in hybrid runs, more than 0 and at most 1." placeholder:"SHARE"`
}

func (c *benchIAACmd) Run(a *app) error {
	if c.CPU <= 0 || c.CPU > 1 {
		return usagef("--cpu: want more than 0 and at most 1")
	}
	if c.Model {
		return usagef("--model: vmferry models only a destination, see --destination (the model of the driver's throughput is in vmferry's source tree: cd bench && go run ./iaa)")
	}
	memories := destination.Memories()
	if c.Destination != "" {
		if !slices.Contains(memories, destination.Memory(c.Destination)) {
			return usagef("--destination: want prealloc, fresh or scan")
		}
		results, err := c.model(a, []destination.Memory{destination.Memory(c.Destination)})
		if err != nil {
			return err
		}
		if c.JSON {
			return json.NewEncoder(a.stdout).Encode(struct {
				Modelled     bool                 `json:"modelled"`
				Destinations []destination.Result `json:"destinations"`
			}{true, results})
		}
		return destination.WriteText(a.stdout, results)
	}
	probe, err := c.measure(a)
	if err != nil {
		return err
	}
	results, err := c.model(a, memories)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(a.stdout).Encode(struct {
			iaaprobe.Report
			Destinations []destination.Result `json:"destinations"`
		}{probe.Report, results})
	}
	if _, err := fmt.Fprintln(a.stdout, probe.Text()); err != nil {
		return err
	}
	return destination.WriteText(a.stdout, results)
}

// model models destinations and shows progress on standard error.
func (c *benchIAACmd) model(a *app, memories []destination.Memory) ([]destination.Result, error) {
	progress := a.newProgress(false)
	defer progress.end()
	runs := int64(0)
	return destination.Compare(a.ctx, memories, destination.Options{}, func(m destination.Memory) {
		progress.show(runs, int64(len(memories)+1), fmt.Sprintf("modelling the destination %s", m), nil)
		runs++
	})
}

// measure makes all runs and shows progress on standard error.
func (c *benchIAACmd) measure(a *app) (*iaaprobe.Probe, error) {
	progress := a.newProgress(false)
	defer progress.end()
	cfg := iaaprobe.Config{CPU: c.CPU, Codec: iaaprobe.NewSoftwareCodec, Progress: func(p iaaprobe.Progress) {
		progress.show(int64(p.Done), int64(p.Total), p.String(), nil)
	}}
	if c.Dynamic {
		cfg.Huffman = iaa.HuffmanDynamic
	}
	if cfg.Devices = iaaprobe.Numbers(a.ctx, iaa.Options{}); len(cfg.Devices) == 0 {
		fmt.Fprintln(a.stderr, "no usable accelerator (see: vmferry iaa list): measuring the software codec that qpl uses without one")
	}
	probe, err := iaaprobe.New(cfg)
	if err != nil {
		return nil, err
	}
	return probe, probe.Run(a.ctx)
}
