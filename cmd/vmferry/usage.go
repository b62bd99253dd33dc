package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// The command's exit statuses. They are a contract: scripts look at them.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// usageError is a command line that no run can satisfy: the exit status is 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// usagef makes a usageError.
func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// errNoMemory is the error of a bound that every machine is over.
var errNoMemory = usagef("--max-memory: want more than 0 (leave the flag out for its default)")

// asUsage marks an error about the command line as one; nil stays nil.
func asUsage(err error) error {
	if err == nil {
		return nil
	}
	return &usageError{err}
}

// exitStatus returns the exit status for why a command ended.
func exitStatus(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errSignal):
		return exitInterrupted
	case errors.As(err, new(*usageError)):
		return exitUsage
	}
	return exitFailed
}

// blameSignal adds the signal to the error of a command that only says that its
// context has ended.
func (a *app) blameSignal(err error) error {
	cause := context.Cause(a.ctx)
	if !errors.Is(cause, errSignal) || errors.Is(err, errSignal) || !errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w (%w)", cause, err)
}

// failure is the last line that a command which fails writes under --json.
type failure struct {
	Error string `json:"error"`
	// Command is the command's name, "" if the command line names none.
	Command    string `json:"command,omitempty"`
	ExitStatus int    `json:"exit_status"`
}

// fail says why a command ended, and returns the exit status. asJSON says that
// the command line has --json: the reason then goes to stdout, too.
func (a *app) fail(command string, err error, asJSON bool) int {
	status := exitStatus(err)
	text := "vmferry: "
	if command != "" {
		text += command + ": "
	}
	fmt.Fprintf(a.stderr, "%s%v\n", text, err)
	if asJSON {
		line, encodeErr := json.Marshal(failure{Error: err.Error(), Command: command, ExitStatus: status})
		if encodeErr != nil {
			panic(encodeErr) // only types of this program
		}
		fmt.Fprintf(a.stdout, "%s\n", line)
	}
	return status
}

// helpWithDefault is a flag's help with its default, which kong shows only where a flag
// has no placeholder. A default of 0 is explained by the help itself.
func helpWithDefault(v *kong.Value) string {
	help := kong.DefaultHelpValueFormatter(v)
	if v.Flag == nil || v.Flag.PlaceHolder == "" || v.Default == "" || v.Default == "0" {
		return help
	}
	return fmt.Sprintf("%s (default %s).", strings.TrimSuffix(help, "."), v.Default)
}

// commandOf names the selected command with the one that it belongs to, such as
// "bench codec"; "" if there is none.
func commandOf(ctx *kong.Context) string {
	var names []string
	for node := ctx.Selected(); node != nil && node.Type == kong.CommandNode; node = node.Parent {
		names = append(names, node.Name)
	}
	slices.Reverse(names)
	return strings.Join(names, " ")
}

// refuse is fail for arguments that cannot be parsed.
func (a *app) refuse(args []string, err error) int {
	command, help := "", "vmferry --help"
	if parse := (*kong.ParseError)(nil); errors.As(err, &parse) && parse.Context.Selected() != nil {
		command = commandOf(parse.Context)
		help = "vmferry " + command + " --help"
	}
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	status := a.fail(command, asUsage(err), slices.Contains(args, "--json"))
	fmt.Fprintf(a.stderr, "See %q.\n", help)
	return status
}

// wantsJSON says whether the selected command has the flag --json and it is on.
func wantsJSON(ctx *kong.Context) bool {
	for _, flag := range ctx.Flags() {
		if flag.Name == "json" {
			on, _ := ctx.FlagValue(flag).(bool)
			return on
		}
	}
	return false
}
