package main

import (
	"fmt"
	"os"
	"time"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/snapshot"
)

type saveCmd struct {
	QMP            string        `required:"" name:"qmp" help:"QMP socket of the machine." placeholder:"PATH"`
	Channels       int           `default:"2" help:"Multifd channels, 1 to 255." placeholder:"N"`
	Compression    string        `default:"none" enum:"none,zlib,zstd,qpl" help:"Method on the wire: ${enum}. A local socket needs none."`
	Level          int           `default:"0" help:"Compression level: zlib has 1 to 9, zstd 1 to 20; 0 is QEMU's default." placeholder:"N"`
	Store          string        `default:"fast" enum:"fast,dense,zstd,raw" help:"How the snapshot keeps pages: ${enum}."`
	MaxSize        byteSize      `default:"0" help:"Most bytes that the snapshot has at any moment, with pages that later rounds replaced, such as 100GiB; 0 is no bound." placeholder:"SIZE"`
	AtPause        string        `help:"Shell command to run while the machine is paused at the end. The save fails if the command fails." placeholder:"CMD"`
	AtPauseTimeout time.Duration `default:"30s" help:"Most time of the command at the pause. Then vmferry ends the command, resumes the machine, and the save fails." placeholder:"TIME"`
	StayPaused     bool          `help:"Leave the machine paused after the save."`
	Bandwidth      byteSize      `default:"0" help:"Most bytes per second that QEMU sends before the machine is paused at the end, such as 100MiB; 0 is no bound." placeholder:"SIZE"`
	DowntimeLimit  time.Duration `default:"300ms" help:"How long the machine may be paused at the end." placeholder:"TIME"`
	MaxRounds      int           `default:"30" help:"Number of rounds after which the machine is paused until the rest is sent." placeholder:"N"`
	MaxMemory      byteSize      `default:"16TiB" help:"Largest memory of the machine that is accepted, such as 64GiB." placeholder:"SIZE"`
	iaaFlags       `embed:""`
	stallFlags     `embed:""`
	SocketDir      string `help:"Directory for the socket between QEMU and vmferry." placeholder:"DIR"`
	JSON           bool   `name:"json" help:"Write progress and result as lines of JSON."`
	Snapshot       string `arg:"" help:"Directory to create."`
}

func (c *saveCmd) Run(a *app) error {
	wire := wireFlags{Channels: c.Channels, Compression: c.Compression}
	method, err := wire.method()
	if err != nil {
		return err
	}
	if err := levelFlag(qemu.SourceLevels(method).Check("QEMU's "+method.Name(), c.Level)); err != nil {
		return err
	}
	if c.MaxMemory == 0 {
		return errNoMemory
	}
	if c.DowntimeLimit <= 0 || c.AtPauseTimeout <= 0 || c.MaxRounds < 1 {
		return usagef("--downtime-limit, --at-pause-timeout and --max-rounds have to be more than 0")
	}
	acc, err := c.accelerator(a, method, snapshot.Store(c.Store))
	if err != nil {
		return err
	}
	defer acc.Close()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program, to start its guard: %w", err)
	}
	p := a.newProgress(c.JSON)
	result, err := vmferry.Save(a.ctx, vmferry.Snapshot{Path: c.Snapshot, Store: snapshot.Store(c.Store), MaxSize: int64(c.MaxSize), Tool: tool()}, qemu.SaveOptions{
		Monitor: qmp.Socket(c.QMP),
		Wire:    migration.Wire{Channels: c.Channels, Method: method, Level: c.Level, StallTimeout: c.stallTimeout(), Accelerator: acc},
		AtPause: c.AtPause, AtPauseTimeout: c.AtPauseTimeout, StayPaused: c.StayPaused, Bandwidth: uint64(c.Bandwidth), Downtime: c.DowntimeLimit,
		MaxRounds: c.MaxRounds, MaxMemory: uint64(c.MaxMemory), SocketDir: c.SocketDir, Guard: []string{self, "guard"}, Progress: p.report, Logger: a.logger(),
	})
	p.end()
	c.report(a, acc)
	if err != nil {
		return err
	}
	return p.made(a, c.Snapshot, c.JSON, result, "%s: %d pages (%d more are zero) in %s, in %d rounds and %s; paused for %s; the machine %s\n",
		c.Snapshot, result.Pages, result.Zero, size(result.Bytes), result.Rounds, seconds(result.Total), seconds(result.Paused), stateLine(result))
}

// stateLine says what state the machine was left in, and why if it does not run.
func stateLine(r *vmferry.SaveResult) string {
	switch {
	case r.RunState == r.SavedRunState:
		return "is " + r.RunState
	case r.SavedRunState == qmp.StateRunning:
		return fmt.Sprintf("ran and is left paused (%s)", r.RunState)
	}
	return fmt.Sprintf("was %s when it was saved, and is left so (QEMU calls it %s)", r.SavedRunState, r.RunState)
}
