package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/transport"
)

type receiveCmd struct {
	Listen        string `required:"" help:"Where to listen: unix:PATH or tcp:HOST:PORT." placeholder:"ADDRESS"`
	wireFlags     `embed:""`
	tlsFlags      `embed:""`
	iaaFlags      `embed:""`
	stallFlags    `embed:""`
	Store         string        `default:"fast" enum:"fast,dense,zstd,raw" help:"How the snapshot keeps pages: ${enum}."`
	MaxSize       byteSize      `default:"0" help:"Most bytes that the snapshot has at any moment, with pages that later rounds replaced, such as 100GiB; 0 is no bound." placeholder:"SIZE"`
	Wait          time.Duration `default:"2m" help:"How long to wait for the source to connect; 0 waits forever." placeholder:"TIME"`
	SwitchoverAck bool          `help:"Send SWITCHOVER_ACK, for a source with the capability switchover-ack."`
	NoDescription bool          `help:"Accept a source that sends no VM description (machine option suppress-vmdesc). The death of such a source at the very end cannot be detected."`
	MaxMemory     byteSize      `default:"16TiB" help:"Largest memory of the source's machine that is accepted, such as 64GiB." placeholder:"SIZE"`
	JSON          bool          `name:"json" help:"Write progress and result as lines of JSON."`
	Snapshot      string        `arg:"" help:"Directory to create."`
}

func (c *receiveCmd) Run(a *app) error {
	method, err := c.receiving()
	if err != nil {
		return err
	}
	if c.MaxMemory == 0 {
		return errNoMemory
	}
	addr, err := address("listen", c.Listen)
	if err != nil {
		return err
	}
	secure, err := c.config(addr, true)
	if err != nil {
		return err
	}
	c.warn(a, addr)
	acc, err := c.accelerator(a, method, snapshot.Store(c.Store))
	if err != nil {
		return err
	}
	defer acc.Close()
	p := a.newProgress(c.JSON)
	result, err := vmferry.Receive(a.ctx, vmferry.Snapshot{Path: c.Snapshot, Store: snapshot.Store(c.Store), MaxSize: int64(c.MaxSize), Tool: tool()}, vmferry.ReceiveOptions{
		Listen: addr, TLS: secure,
		Wire:           migration.Wire{Channels: c.Channels, Method: method, StallTimeout: c.stallTimeout(), Accelerator: acc},
		ConnectTimeout: c.Wait, MaxMemory: uint64(c.MaxMemory), SwitchoverAck: c.SwitchoverAck, NoDescription: c.NoDescription,
		Progress: p.report, Logger: a.logger(),
	})
	p.end()
	c.report(a, acc)
	if errors.Is(err, transport.ErrNoSource) {
		return fmt.Errorf("%w; start the migration at the source within that time, or raise --wait", err)
	}
	if err != nil {
		return err
	}
	return p.made(a, c.Snapshot, c.JSON, result, "%s: %d pages (%d more are zero) in %s, received in %s\n",
		c.Snapshot, result.Pages, result.Zero, size(result.Bytes), seconds(result.Total))
}
