// Vmferry saves the memory and device state of running QEMU machines and
// brings them back. See the README of the module.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/internal/termtext"
)

// cli is the command line. Its names and flags are a contract: scripts call
// them.
type cli struct {
	Verbose     bool             `help:"Log in detail."`
	ShowVersion kong.VersionFlag `name:"version" help:"Print the version."`

	Save     saveCmd     `cmd:"" help:"Save a running machine to a snapshot; the machine continues to run."`
	Restore  restoreCmd  `cmd:"" help:"Start a snapshot's machine in a QEMU that waits with -incoming defer."`
	Receive  receiveCmd  `cmd:"" help:"Receive a migration that another program drives, into a snapshot."`
	Send     sendCmd     `cmd:"" help:"Send a snapshot to a destination that another program set up."`
	Migrate  migrateCmd  `cmd:"" help:"Move a running machine to another QEMU, on another host or on this one."`
	Accept   acceptCmd   `cmd:"" help:"Take over a machine that vmferry migrate sends."`
	Relay    relayCmd    `cmd:"" help:"Carry migrations between two QEMUs over a link, compressed and encrypted."`
	Forecast forecastCmd `cmd:"" help:"Say whether and how long a migration of a running machine would take."`
	Inspect  inspectCmd  `cmd:"" help:"Describe a snapshot."`
	Verify   verifyCmd   `cmd:"" help:"Read and check everything in a snapshot."`
	Export   exportCmd   `cmd:"" help:"Write a snapshot's memory to a file, raw or in a format that QEMU loads."`
	IAA      iaaCmd      `cmd:"" name:"iaa" help:"Commands for Intel's In-Memory Analytics Accelerators."`
	Bench    benchCmd    `cmd:"" help:"Measure the speed of this machine."`
	Demo     demoCmd     `cmd:"" help:"Move a running machine from one process to another, and verify it."`
	Version  versionCmd  `cmd:"" help:"Print the version."`
	Side     demoSideCmd `cmd:"" name:"demo-side" hidden:"" help:"Run one process of the demo; demo starts it."`
	Guard    guardCmd    `cmd:"" hidden:"" help:"Watch a save or a migration, which starts it."`
}

// app is what commands need of the process.
type app struct {
	ctx            context.Context
	stdin          io.Reader
	stdout, stderr io.Writer
	verbose        bool
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := untilSignal(context.Background())
	defer stop()
	// Text of peers and files, such as names and QEMU's reasons, is among what
	// is printed, in errors too.
	a := &app{ctx: ctx, stdin: os.Stdin, stdout: termtext.NewWriter(os.Stdout), stderr: termtext.NewWriter(os.Stderr)}
	return a.run(args)
}

func (a *app) run(args []string) (code int) {
	var c cli
	parser, err := kong.New(&c, kong.Name("vmferry"), kong.UsageOnError(), kong.Bind(a),
		kong.Description("Carries the memory of running virtual machines: saves them while they run, brings them back, and moves them to another host."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.Writers(a.stdout, a.stderr),
		kong.Vars{"version": versionText()}, durationFlags(), kong.ValueFormatter(helpWithDefault), kong.Exit(func(n int) { panic(exit(n)) }))
	if err != nil {
		panic(err) // the command line's own definition is wrong
	}
	defer func() {
		if n, ok := recover().(exit); ok {
			code = int(n)
		}
	}()
	ctx, err := parser.Parse(args)
	if err != nil {
		return a.refuse(args, err)
	}
	if err := deflate.EnvironmentError(); err != nil {
		return a.fail(commandOf(ctx), asUsage(err), wantsJSON(ctx))
	}
	a.verbose = c.Verbose
	a.logger().Debug("start", "command", ctx.Command(), "version", tool(), "deflate", deflate.Tier())
	if err := a.blameSignal(ctx.Run()); err != nil {
		return a.fail(commandOf(ctx), err, wantsJSON(ctx))
	}
	return 0
}

// exit is how kong ends a command that only asked for help.
type exit int

type versionCmd struct{}

func (versionCmd) Run(a *app) error {
	_, err := fmt.Fprintln(a.stdout, versionText())
	return err
}

// versionText names this program, and the tier of the page codec.
func versionText() string {
	return fmt.Sprintf("%s\npage codec: tier %s (this processor can run %s)",
		tool(), deflate.Tier(), strings.Join(deflate.Tiers(), ", "))
}

// tool names this program and its version.
func tool() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "vmferry (unknown version)"
	}
	return "vmferry " + info.Main.Version
}
