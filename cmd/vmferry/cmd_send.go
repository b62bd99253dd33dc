package main

import (
	"time"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/migration/stored"
)

type sendCmd struct {
	Connect        string `required:"" help:"Where the destination listens: unix:PATH or tcp:HOST:PORT." placeholder:"ADDRESS"`
	wireFlags      `embed:""`
	tlsFlags       `embed:""`
	iaaFlags       `embed:""`
	stallFlags     `embed:""`
	AllZero        bool          `help:"Send a record of every zero page, for a destination whose memory is not zero."`
	Bandwidth      byteSize      `default:"0" help:"Most bytes per second on the wire, such as 100MiB; 0 is no bound." placeholder:"SIZE"`
	ConnectTimeout time.Duration `default:"10s" help:"How long to retry a destination that does not listen yet; 0 tries once." placeholder:"TIME"`
	NoReturnPath   bool          `help:"Do not ask the destination for its result."`
	JSON           bool          `name:"json" help:"Write progress and result as lines of JSON."`
	Snapshot       string        `arg:"" help:"Snapshot to send."`
}

func (c *sendCmd) Run(a *app) error {
	method, err := c.sending()
	if err != nil {
		return err
	}
	addr, err := address("connect", c.Connect)
	if err != nil {
		return err
	}
	secure, err := c.config(addr, false)
	if err != nil {
		return err
	}
	c.warn(a, addr)
	acc, err := c.accelerator(a, method, "")
	if err != nil {
		return err
	}
	defer acc.Close()
	p := a.newProgress(c.JSON)
	result, err := vmferry.Send(a.ctx, vmferry.Snapshot{Path: c.Snapshot}, vmferry.SendOptions{
		Connect: addr, TLS: secure, Progress: p.report,
		SendConfig: stored.SendConfig{
			Wire:    migration.Wire{Channels: c.Channels, Method: method, Level: c.Level, StallTimeout: c.stallTimeout(), Accelerator: acc},
			AllZero: c.AllZero, NoReturnPath: c.NoReturnPath, Bandwidth: uint64(c.Bandwidth), ConnectTimeout: c.ConnectTimeout,
		},
	})
	p.end()
	c.report(a, acc)
	if err != nil {
		return err
	}
	said := "the destination has loaded the machine"
	if !result.Confirmed {
		said = "the destination was not asked how it went"
	}
	return p.result(a, c.JSON, result, "%s: %d pages in %s sent in %s; %s\n", c.Snapshot, result.Pages, size(result.Sent), seconds(result.Total), said)
}
