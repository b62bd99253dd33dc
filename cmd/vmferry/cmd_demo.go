package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"text/tabwriter"
	"time"

	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/godemo"
	"github.com/vmferry/vmferry/internal/machine"
	"github.com/vmferry/vmferry/live"
	"github.com/vmferry/vmferry/transport"
)

type demoCmd struct {
	Guest       string   `default:"go" enum:"go" help:"What runs in the machine: ${enum}, goroutines of a process. Nothing has to be installed."`
	Memory      byteSize `default:"1GiB" help:"Memory of the machine, such as 512MiB." placeholder:"SIZE"`
	Channels    int      `default:"2" help:"Multifd channels." placeholder:"N"`
	Compression string   `default:"qpl" enum:"none,zlib,zstd,qpl,uadk,qatzip" help:"Method on the wire: ${enum}."`
	Writers     int      `default:"2" help:"Number of goroutines that write to the memory." placeholder:"N"`
	Rate        *int     `help:"Pages per second of each writer; 0 is as fast as possible. Without the flag: 4000, or fewer on a slow machine." placeholder:"N"`
	Pages       string   `default:"transparent" enum:"small,transparent" help:"Pages of the memory: ${enum}. Transparent is huge pages, or small ones if the system has no huge pages."`
	DirtyLog    string   `default:"auto" enum:"auto,async,sync,marks" help:"Source of the dirty pages: the kernel (async or sync; auto chooses), or marks that the writers set. ${enum}." placeholder:"LOG"`
	Bandwidth   byteSize `default:"0" help:"Most bytes per second on the wire, such as 100MiB; 0 is no bound." placeholder:"SIZE"`
	JSON        bool     `name:"json" help:"Write one JSON object per line, the report last."`
}

// defaultRate is how many pages each writer writes a second if the machine keeps up.
const defaultRate = 4000

func (c *demoCmd) config() (godemo.Config, error) {
	const least, most = 1 << 20, 1 << 40
	if c.Memory < least || c.Memory > most || c.Memory%machine.PageSize != 0 {
		return godemo.Config{}, usagef("--memory: %d bytes (want 1 MiB to 1 TiB, whole pages of %d bytes)", c.Memory, machine.PageSize)
	}
	rate := defaultRate
	if c.Rate != nil {
		rate = *c.Rate
	}
	if c.Writers < 0 || c.Writers > 256 || rate < 0 {
		return godemo.Config{}, usagef("--writers: want 0 to 256, and --rate 0 or more")
	}
	f := wireFlags{Channels: c.Channels, Compression: c.Compression}
	if _, err := f.method(); err != nil {
		return godemo.Config{}, err
	}
	pages := guestmem.PageKind(c.Pages)
	if !guestmem.Available(guestmem.Options{Pages: pages}) {
		pages = guestmem.SmallPages
	}
	return godemo.Config{
		Machine: machine.Config{
			Map: guestmem.Options{Pages: pages}, Log: c.DirtyLog, Memory: uint64(c.Memory), Writers: c.Writers, Rate: rate, Seed: 1,
		},
		Channels: c.Channels, Method: c.Compression, Bandwidth: uint64(c.Bandwidth),
		Downtime: 20 * time.Millisecond, WarmUp: 300 * time.Millisecond, GoOn: 500 * time.Millisecond,
		LinkTimeout: 10 * time.Second, Inquiry: 20 * time.Second, StandStill: 5 * time.Minute,
		FollowSpeed: c.Rate == nil,
	}, nil
}

// errNotVerified is why the demo's exit status is not 0.
var errNotVerified = errors.New("not verified")

func (c *demoCmd) Run(a *app) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program, to run the two sides: %w", err)
	}
	side := func(ctx context.Context, side, address string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, self, "demo-side", side, address)
		cmd.Args[0] = os.Args[0] // by which the program knows itself
		cmd.Stderr = a.stderr
		return cmd
	}
	p := &progress{out: a.stdout}
	if !c.JSON {
		fmt.Fprintf(a.stdout, "a machine of %s, %d writers, moves to another process: %s, %d channels, %s pages\n\n",
			size(cfg.Machine.Memory), c.Writers, c.Compression, c.Channels, cfg.Machine.Map.Pages)
		fmt.Fprintf(a.stdout, "%-6s %9s %9s %9s %9s %11s %9s %12s %11s\n", "round", "zero", "raw", "deflated", "took", "wire", "left", "dirty/s", "downtime")
	}
	report, err := godemo.Run(a.ctx, cfg, side, func(from string, e godemo.Event) {
		switch {
		case c.JSON:
			p.line(map[string]any{"from": from, "progress": e})
		case e.Event == "round":
			showRound(a, e.Round)
		case e.Event == "running":
			fmt.Fprintln(a.stdout, "it runs at the destination")
		}
	})
	if err != nil {
		return err
	}
	if c.JSON {
		p.line(map[string]any{"result": report})
	} else {
		showReport(a, &report)
	}
	if !report.Verified {
		return errNotVerified
	}
	return nil
}

func showRound(a *app, r *live.Round) {
	number := fmt.Sprint(r.Number)
	if r.Last {
		number += " last"
	}
	rate, expected := "", ""
	if !r.Last {
		rate, expected = size(r.DirtyRate)+"/s", millis(r.ExpectedDowntime)
	}
	fmt.Fprintf(a.stdout, "%-6s %9d %9d %9d %9s %11s %9d %12s %11s\n",
		number, r.Zero, r.Raw, r.Compressed, millis(r.Took), size(r.Bytes), r.Remaining, rate, expected)
}

func showReport(a *app, r *godemo.Report) {
	fmt.Fprintln(a.stdout)
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	line := func(what, format string, args ...any) {
		fmt.Fprintf(w, "  %s\t%s\n", what, fmt.Sprintf(format, args...))
	}
	line("total", "%s, %d rounds", seconds(r.Total), r.Rounds)
	line("downtime", "%s (and %s in which the demo digested all memory)", millis(r.Downtime), millis(r.Digest))
	line("on the wire", "%s, ratio %.2f", size(r.Bytes), r.Ratio)
	line("pages", "%d zero, %d as they are, %d compressed", r.Zero, r.Raw, r.Compressed)
	line("processor", "%s at the source with its writers, %s at the destination", seconds(r.SourceCPU), seconds(r.DestCPU))
	line("destination's page faults", "%d, for %d pages with data", r.DestFaults, r.DataPages)
	line("acknowledged writes", "%d, which went on to %d", r.Acknowledge, r.WentOnTo)
	line("memory at the switch", "sha256 %.16s... at both sides", r.MemoryHash)
	if r.Verified {
		line("verified", "no write lost, no page different, no gap")
	}
	w.Flush()
	for _, p := range r.Problems {
		fmt.Fprintln(a.stdout, "  NOT VERIFIED:", p)
	}
}

func millis(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

// demoSideCmd is one of the demo's two processes.
type demoSideCmd struct {
	Side    string `arg:"" enum:"source,destination"`
	Address string `arg:""`
}

func (c *demoSideCmd) Run(a *app) error {
	cfg, err := godemo.ReadConfig(a.stdin)
	if err != nil {
		return err
	}
	address, err := transport.ParseAddress(c.Address)
	if err != nil {
		return err
	}
	if c.Side == "source" {
		return godemo.Source(a.ctx, cfg, address, a.stdout, a.logger())
	}
	return godemo.Destination(a.ctx, cfg, address, a.stdout, a.logger())
}
