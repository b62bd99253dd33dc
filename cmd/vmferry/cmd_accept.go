package main

import (
	"time"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/relay"
)

type acceptCmd struct {
	QMP            string `required:"" name:"qmp" help:"QMP socket of a QEMU started like the source's, with -incoming defer." placeholder:"PATH"`
	Listen         string `required:"" help:"Where to listen: unix:PATH or tcp:HOST:PORT." placeholder:"ADDRESS"`
	tlsFlags       `embed:""`
	linkEndFlags   `embed:""`
	Wait           time.Duration `default:"0" help:"How long to wait for the source to connect; 0 waits forever." placeholder:"TIME"`
	ConnectTimeout time.Duration `default:"10s" help:"How long to wait for the QMP socket of a QEMU that is starting." placeholder:"TIME"`
	stallFlags     `embed:""`
	linkFlags      `embed:""`
	SocketDir      string `help:"Directory for the socket between vmferry and QEMU." placeholder:"DIR"`
	JSON           bool   `name:"json" help:"Write progress and result as lines of JSON."`
}

func (c *acceptCmd) Run(a *app) error {
	if err := c.checkLinkTimeout(); err != nil {
		return err
	}
	addr, err := address("listen", c.Listen)
	if err != nil {
		return err
	}
	secure, err := c.config(addr, true)
	if err != nil {
		return err
	}
	// The source chooses the compression, so this side inflates whatever comes.
	flags := relayFlags{Compression: string(relay.Auto), linkEndFlags: c.linkEndFlags}
	link, err := flags.relayConfig(a)
	if err != nil {
		return err
	}
	defer link.Accelerator.Close()
	c.warn(a, addr)
	p := a.newProgress(c.JSON)
	result, err := vmferry.Accept(a.ctx, qemu.AcceptOptions{
		Monitor: qmp.Socket(c.QMP), Listen: addr, TLS: secure, Relay: link, Wait: c.Wait, ConnectTimeout: patience(c.ConnectTimeout),
		StallTimeout: c.stallTimeout(), LinkTimeout: c.LinkTimeout, SocketDir: c.SocketDir, Tool: tool(), Progress: p.report, Logger: a.logger(),
	})
	p.end()
	c.report(a, link.Accelerator)
	if err != nil {
		return err
	}
	return p.result(a, c.JSON, result, "the machine is %s here (QEMU %s); it came from %s (QEMU %s) in %s\n",
		result.RunState, result.QEMU, result.Source, result.SourceQEMU, seconds(result.Total))
}
