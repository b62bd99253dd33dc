package main

import (
	"errors"
	"fmt"

	"github.com/vmferry/vmferry/store"
)

type exportCmd struct {
	Block    string `help:"RAM block to write, the largest if not given (raw only)." placeholder:"NAME"`
	Format   string `required:"" enum:"raw,mapped-ram" placeholder:"FORMAT" help:"${enum}: one block byte by byte, or a file for QEMU's own -incoming file: with the mapped-ram capability."`
	Snapshot string `arg:"" help:"Snapshot to read."`
	Out      string `arg:"" help:"File to make."`
}

func (c *exportCmd) Run(a *app) (err error) {
	if c.Block != "" && c.Format != "raw" {
		return usagef("--block goes with --format raw: a mapped-ram file has all blocks")
	}
	r, err := openSnapshot(a.ctx, c.Snapshot)
	if err != nil {
		return err
	}
	defer r.Close()
	block, err := blockNamed(r.Layout(), c.Block)
	if err != nil {
		return err
	}
	f, err := store.CreateFile(c.Out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Abort()) }()
	if c.Format == "raw" {
		err = r.ExportRaw(a.ctx, block, f)
	} else {
		err = r.ExportMappedRAM(a.ctx, f)
	}
	if err == nil {
		err = f.Commit()
	}
	if err != nil {
		return err
	}
	if c.Format == "raw" {
		_, err = fmt.Fprintf(a.stdout, "%s: %s of RAM block %q\n", c.Out, size(block.Length), block.Name)
	} else {
		_, err = fmt.Fprintf(a.stdout, "%s: load it with the capability mapped-ram on and migrate-incoming \"file:%s\"\n", c.Out, c.Out)
	}
	return err
}
