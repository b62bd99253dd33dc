package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
)

type restoreCmd struct {
	QMP        string `required:"" name:"qmp" help:"QMP socket of a QEMU started with -incoming defer." placeholder:"PATH"`
	wireFlags  `embed:""`
	iaaFlags   `embed:""`
	stallFlags `embed:""`
	Paused     bool `help:"Leave the machine paused."`
	Force      bool `help:"Restore although this QEMU differs from the machine that was saved; each difference is a warning."`
	// The time that a QEMU which was just started takes to make its socket.
	ConnectTimeout time.Duration `default:"10s" help:"For how long to wait for the QMP socket of a QEMU that was just started." placeholder:"TIME"`
	SocketDir      string        `help:"Where to make the socket between vmferry and QEMU." placeholder:"DIR"`
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
	r, err := openSnapshot(a.ctx, c.Snapshot)
	if err != nil {
		return err
	}
	defer r.Close()
	p := a.newProgress(c.JSON)
	result, err := qemu.Restore(a.ctx, r.Reader, qemu.RestoreOptions{
		Monitor: qmp.Socket(c.QMP), Wire: migration.Wire{Channels: c.Channels, Method: method, Level: c.Level, StallTimeout: c.stallTimeout(), Accelerator: acc}, Paused: c.Paused, Force: c.Force,
		ConnectTimeout: c.patience(), SocketDir: c.SocketDir, Logger: a.logger(),
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

// patience is ConnectTimeout with 0 for a single attempt.
func (c *restoreCmd) patience() time.Duration {
	if c.ConnectTimeout <= 0 {
		return -1
	}
	return c.ConnectTimeout
}

// openedSnapshot is a reader that closes its directory too.
type openedSnapshot struct {
	*snapshot.Reader
	dir *store.Dir
}

func (s openedSnapshot) Close() error { return errors.Join(s.Reader.Close(), s.dir.Close()) }

func openSnapshot(ctx context.Context, path string) (openedSnapshot, error) {
	dir, err := store.OpenDir(path)
	if err != nil {
		return openedSnapshot{}, err
	}
	r, err := snapshot.Open(ctx, dir, snapshot.OpenOptions{})
	if err != nil {
		return openedSnapshot{}, errors.Join(err, dir.Close())
	}
	return openedSnapshot{r, dir}, nil
}

// maxBlocksNamed bounds the names in an error about a block that is not there.
const maxBlocksNamed = 50

// blockNamed finds a RAM block, the largest if it is not named.
func blockNamed(l *guest.Layout, name string) (*guest.Block, error) {
	if name == "" {
		return l.Largest(), nil
	}
	if b := l.Block(name); b != nil {
		return b, nil
	}
	var names []string
	for _, b := range l.Blocks[:min(len(l.Blocks), maxBlocksNamed)] {
		names = append(names, b.Name)
	}
	if len(l.Blocks) > maxBlocksNamed {
		return nil, fmt.Errorf("no RAM block is called %q; there are %q and %d more (see vmferry inspect)", name, names, len(l.Blocks)-maxBlocksNamed)
	}
	return nil, fmt.Errorf("no RAM block is called %q; there are %q", name, names)
}
