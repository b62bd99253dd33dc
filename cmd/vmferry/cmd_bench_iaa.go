package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/vmferry/vmferry/iaa"
	iaaprobe "github.com/vmferry/vmferry/internal/probe/iaa"
)

type benchIAACmd struct {
	JSON    bool    `name:"json" help:"Write JSON."`
	Model   bool    `help:"Refused: the model of the devices is in the benchmark module (cd bench && go run ./iaa)."`
	Dynamic bool    `help:"Use dynamic Huffman codes instead of fixed ones."`
	CPU     float64 `name:"cpu" default:"1" help:"Largest share of the processor in hybrid runs, more than 0 and at most 1." placeholder:"SHARE"`
}

func (c *benchIAACmd) Run(a *app) error {
	if c.CPU <= 0 || c.CPU > 1 {
		return usagef("--cpu: want more than 0 and at most 1")
	}
	if c.Model {
		return usagef("--model: vmferry has no model of the devices (in vmferry's source tree: cd bench && go run ./iaa)")
	}
	probe, err := c.measure(a)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(a.stdout).Encode(probe.Report)
	}
	_, err = io.WriteString(a.stdout, probe.Text())
	return err
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
