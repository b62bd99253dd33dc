package main

import (
	"time"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
)

type restoreCmd struct {
	QMP        string `required:"" name:"qmp" help:"QMP socket of a QEMU started with -incoming defer." placeholder:"PATH"`
	wireFlags  `embed:""`
	iaaFlags   `embed:""`
	stallFlags `embed:""`
	Paused     bool `help:"Leave the machine paused."`
	Force      bool `help:"Restore into a QEMU that differs from the saved machine; each difference is a warning."`
	// The time that a QEMU which was just started takes to make its socket.
	ConnectTimeout time.Duration `default:"10s" help:"How long to wait for the QMP socket of a QEMU that is starting." placeholder:"TIME"`
	SocketDir      string        `help:"Directory for the socket between vmferry and QEMU." placeholder:"DIR"`
	JSON           bool          `name:"json" help:"Write progress and result as lines of JSON."`
	Snapshot       string        `arg:"" help:"Snapshot to start."`
}

func (c *restoreCmd) Run(a *app) error {
	method, err := c.sending()
	if err != nil {
		return err
	}
	acc, err := c.accelerator(a, method, "")
	if err != nil {
		return err
	}
	defer acc.Close()
	p := a.newProgress(c.JSON)
	result, err := vmferry.Restore(a.ctx, vmferry.Snapshot{Path: c.Snapshot}, qemu.RestoreOptions{
		Monitor: qmp.Socket(c.QMP),
		Wire:    migration.Wire{Channels: c.Channels, Method: method, Level: c.Level, StallTimeout: c.stallTimeout(), Accelerator: acc},
		Paused:  c.Paused, Force: c.Force, ConnectTimeout: patience(c.ConnectTimeout), SocketDir: c.SocketDir, Progress: p.report, Logger: a.logger(),
	})
	p.end()
	c.report(a, acc)
	if err != nil {
		return err
	}
	return p.result(a, c.JSON, result, "%s: %d pages restored in %s; the machine is %s\n", c.Snapshot, result.Pages, seconds(result.Total), result.RunState)
}
