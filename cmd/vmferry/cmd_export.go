package main

import (
	"fmt"

	"github.com/vmferry/vmferry"
)

type exportCmd struct {
	Block    string `help:"RAM block to write, the largest if not given (raw only)." placeholder:"NAME"`
	Format   string `required:"" enum:"raw,mapped-ram" placeholder:"FORMAT" help:"${enum}: one RAM block byte by byte, or a file for QEMU's own -incoming file: with the mapped-ram capability."`
	Snapshot string `arg:"" help:"Snapshot to read."`
	Out      string `arg:"" help:"File to create."`
}

func (c *exportCmd) Run(a *app) error {
	if c.Block != "" && c.Format != "raw" {
		return usagef("--block goes with --format raw: a mapped-ram file has all blocks")
	}
	block, err := vmferry.Export(a.ctx, vmferry.Snapshot{Path: c.Snapshot}, c.Out, vmferry.ExportOptions{Format: vmferry.ExportFormat(c.Format), Block: c.Block})
	if err != nil {
		return err
	}
	if c.Format == string(vmferry.ExportRaw) {
		_, err = fmt.Fprintf(a.stdout, "%s: %s of RAM block %q\n", c.Out, size(block.Length), block.Name)
	} else {
		_, err = fmt.Fprintf(a.stdout, "%s: load it with the capability mapped-ram on and migrate-incoming \"file:%s\"\n", c.Out, c.Out)
	}
	return err
}
