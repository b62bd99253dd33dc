package main

import (
	"fmt"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/snapshot"
)

type restoreCmd struct {
	QMP        string `required:"" name:"qmp" help:"QMP socket of a QEMU started with -incoming defer." placeholder:"PATH"`
	wireFlags  `embed:""`
	iaaFlags   `embed:""`
	stallFlags `embed:""`
	Paused     bool   `help:"Leave the machine paused."`
	SocketDir  string `help:"Where to make the socket between vmferry and QEMU." placeholder:"DIR"`
	JSON       bool   `name:"json" help:"Write progress and result as lines of JSON."`
	Snapshot   string `arg:"" help:"Snapshot to start."`
}

func (c *restoreCmd) Run(a *app) error {
	method, err := c.method()
	if err != nil {
		return err
	}
	acc, err := c.accelerator(a, method, "")
	if err != nil {
		return err
	}
	defer acc.Close()
	r, err := openSnapshot(c.Snapshot)
	if err != nil {
		return err
	}
	defer r.Close()
	p := a.newProgress(c.JSON)
	result, err := qemu.Restore(a.ctx, r, qemu.RestoreOptions{
		StallTimeout: c.stallTimeout(),
		QMP:          c.QMP, Channels: c.Channels, Method: method, Level: c.Level, Paused: c.Paused, SocketDir: c.SocketDir, Accelerator: acc, Logger: a.logger(),
		Progress: func(s qemu.RestoreProgress) {
			p.show(int64(s.Normal), int64(s.Total), fmt.Sprintf("%d of %d pages, %s sent", s.Normal, s.Total, size(s.Sent)), s)
		},
	})
	p.end()
	c.report(a, acc)
	if err != nil {
		return err
	}
	if c.JSON {
		p.line(map[string]any{"result": result})
		return nil
	}
	_, err = fmt.Fprintf(a.stdout, "%s: %d pages restored in %s; the machine is %s\n", c.Snapshot, result.Pages, seconds(result.Total), result.RunState)
	return err
}

func openSnapshot(path string) (*snapshot.Reader, error) {
	dir, err := snapshot.OpenDir(path)
	if err != nil {
		return nil, err
	}
	return snapshot.Open(dir)
}

// blockNamed finds a RAM block, the largest if it is not named.
func blockNamed(l *guest.Layout, name string) (*guest.Block, error) {
	if name == "" {
		return l.Largest(), nil
	}
	if b := l.Block(name); b != nil {
		return b, nil
	}
	var names []string
	for _, b := range l.Blocks {
		names = append(names, b.Name)
	}
	return nil, fmt.Errorf("no RAM block is called %q; there are %q", name, names)
}
