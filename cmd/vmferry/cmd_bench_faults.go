package main

import (
	"bytes"
	"os"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/probe/faults"
)

type benchFaultsCmd struct {
	Memory mebibytes `default:"256" help:"Guest memory, such as 1GiB; a number without a unit is MiB." placeholder:"SIZE"`
	Runs   int       `default:"5" help:"Number of runs." placeholder:"N"`
	JSON   bool      `name:"json" help:"Write one JSON object per line."`
	Chart  string    `help:"Write a chart of the page faults to this file, as SVG." placeholder:"FILE"`
}

func (c *benchFaultsCmd) Run(a *app) error {
	if c.Memory < faults.MinMemory>>20 || c.Memory > guest.MaxMemory>>20 {
		return usagef("--memory: want %d to %d MiB", faults.MinMemory>>20, uint64(guest.MaxMemory>>20))
	}
	if c.Runs < 1 {
		return usagef("--runs: want 1 or more")
	}
	report, err := faults.Run(a.ctx, faults.Options{Memory: uint64(c.Memory) << 20, Runs: c.Runs})
	if err != nil {
		return err
	}
	if c.Chart != "" {
		var svg bytes.Buffer
		if err := report.WriteChart(&svg); err != nil {
			return err
		}
		if err := os.WriteFile(c.Chart, svg.Bytes(), 0o644); err != nil {
			return err
		}
	}
	if c.JSON {
		return report.WriteJSON(a.stdout)
	}
	return report.WriteText(a.stdout)
}
