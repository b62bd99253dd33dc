package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
)

type migrateCmd struct {
	QMP            string   `required:"" name:"qmp" help:"QMP socket of the machine." placeholder:"PATH"`
	Connect        string   `help:"Where vmferry accept listens on the other host: unix:PATH or tcp:HOST:PORT." placeholder:"ADDRESS"`
	ToQMP          string   `name:"to-qmp" help:"QMP socket of a QEMU on this host that was started with -incoming defer, in place of --connect." placeholder:"PATH"`
	Bandwidth      byteSize `default:"0" help:"Most bytes per second that are sent, such as 100MiB; 0 is no bound." placeholder:"SIZE"`
	relayFlags     `embed:""`
	tlsFlags       `embed:""`
	Channels       int           `default:"2" help:"QEMU's multifd channels, 1 to 255." placeholder:"N"`
	DowntimeLimit  time.Duration `default:"300ms" help:"How long the machine may be paused at the end." placeholder:"TIME"`
	MaxRounds      int           `default:"30" help:"Number of rounds after which --diverging applies." placeholder:"N"`
	Diverging      string        `default:"give-up" enum:"give-up,throttle,stop" help:"What to do with a machine that writes faster than the link carries: ${enum}. give-up cancels after --max-rounds; throttle has QEMU slow the machine down, and pauses it after --max-rounds; stop pauses it then."`
	AtPause        string        `help:"Shell command to run while the machine is paused at the end. The migration fails if the command fails." placeholder:"CMD"`
	AtPauseTimeout time.Duration `default:"30s" help:"Most time of the command at the pause. Then vmferry ends the command, and the migration fails." placeholder:"TIME"`
	DryRun         bool          `help:"Compare the two sides, print how they differ, and change nothing."`
	ConnectTimeout time.Duration `default:"10s" help:"How long to try to connect while no process listens at the destination." placeholder:"TIME"`
	stallFlags     `embed:""`
	linkFlags      `embed:""`
	SocketDir      string `help:"Directory for the socket between QEMU and vmferry." placeholder:"DIR"`
	JSON           bool   `name:"json" help:"Write progress and result as lines of JSON."`
}

// check refuses values that no run can satisfy.
func (c *migrateCmd) check() error {
	switch {
	case (c.Connect == "") == (c.ToQMP == ""):
		return usagef("want one of --connect (vmferry accept on another host) and --to-qmp (a QEMU on this host)")
	case c.ToQMP != "" && (c.Insecure || c.TLSCert != "" || c.TLSKey != "" || c.TLSCA != "" || len(c.TLSPeer) > 0):
		return usagef("--to-qmp uses no network: leave --insecure and --tls-... out")
	case c.Channels < 1 || c.Channels > multifd.MaxChannels:
		return usagef("--channels: want 1 to %d", multifd.MaxChannels)
	case c.DowntimeLimit <= 0 || c.AtPauseTimeout <= 0 || c.MaxRounds < 1:
		return usagef("--downtime-limit, --at-pause-timeout and --max-rounds have to be more than 0")
	}
	return c.checkLinkTimeout()
}

// options returns the options, without what only one of the two forms has.
func (c *migrateCmd) options(a *app) (qemu.MigrateOptions, error) {
	self, err := os.Executable()
	if err != nil {
		return qemu.MigrateOptions{}, fmt.Errorf("finding this program, to start its guard: %w", err)
	}
	return qemu.MigrateOptions{
		Monitor: qmp.Socket(c.QMP), Channels: c.Channels, Bandwidth: uint64(c.Bandwidth), Downtime: c.DowntimeLimit, MaxRounds: c.MaxRounds,
		Diverging: qemu.Diverging(c.Diverging), DryRun: c.DryRun, AtPause: c.AtPause, AtPauseTimeout: c.AtPauseTimeout,
		ConnectTimeout: patience(c.ConnectTimeout), StallTimeout: c.stallTimeout(), LinkTimeout: c.LinkTimeout, SocketDir: c.SocketDir, Guard: []string{self, "guard"},
		Tool: tool(), Logger: a.logger(),
	}, nil
}

func (c *migrateCmd) Run(a *app) error {
	if err := c.check(); err != nil {
		return err
	}
	opts, err := c.options(a)
	if err != nil {
		return err
	}
	if c.ToQMP != "" {
		opts.Destination = qmp.Socket(c.ToQMP)
	} else {
		if opts.Connect, err = address("connect", c.Connect); err != nil {
			return err
		}
		if opts.TLS, err = c.config(opts.Connect, false); err != nil {
			return err
		}
		if opts.Relay, err = c.relayConfig(a); err != nil {
			return err
		}
		defer opts.Relay.Accelerator.Close()
		c.warn(a, opts.Connect)
		defer c.report(a, opts.Relay.Accelerator)
	}
	p := a.newProgress(c.JSON)
	opts.Progress = p.report
	result, err := vmferry.Migrate(a.ctx, opts)
	p.end()
	if c.DryRun && result != nil {
		return errors.Join(c.compared(a, p, result), err)
	}
	if err != nil {
		return err
	}
	return p.result(a, c.JSON, result, "the machine is %s at %s (QEMU %s): %d pages (%d more are zero), %s%s, in %d rounds and %s; paused for %s\n",
		result.RunState, result.Destination, result.DestinationQEMU, result.Pages, result.Zero, size(result.Sent), onLink(result.Link), result.Rounds, seconds(result.Total), seconds(result.Paused))
}

// onLink says what of the bytes went over the links.
func onLink(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s on the link)", size(n))
}

// compared writes the result of a dry run.
func (c *migrateCmd) compared(a *app, p *progress, r *vmferry.MigrateResult) error {
	text := fmt.Sprintf("%s (QEMU %s) to %s (QEMU %s): ", r.Machine, r.QEMU, r.Destination, r.DestinationQEMU)
	if len(r.Differences) == 0 {
		text += "the destination is like the source\n"
	} else {
		text += fmt.Sprintf("%d differences; the migration would fail\n", len(r.Differences))
	}
	for _, remark := range r.Remarks {
		text += "  harmless: " + remark + "\n"
	}
	return p.result(a, c.JSON, r, "%s", strings.TrimSuffix(text, "\n")+"\n")
}

// patience is a --connect-timeout with 0 for a single attempt.
func patience(d time.Duration) time.Duration {
	if d <= 0 {
		return -1
	}
	return d
}
