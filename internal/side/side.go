// Package side runs one side of a migration as a process of its own, which is told
// things and tells things in lines of JSON.
package side

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
)

// longestLine is how much a side may tell at once.
const longestLine = 16 << 20

// Process is a side that runs.
type Process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

// Start starts the command and tells it the first thing.
func Start(cmd *exec.Cmd, first any) (*Process, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{cmd, in, bufio.NewScanner(out)}
	p.lines.Buffer(nil, longestLine)
	return p, p.Tell(first)
}

// Tell writes v as a line.
func (p *Process) Tell(v any) error { return json.NewEncoder(p.in).Encode(v) }

// Next reads the next line into v. Its error wraps io.ErrUnexpectedEOF when there
// is none.
func (p *Process) Next(v any) error {
	if !p.lines.Scan() {
		return errors.Join(io.ErrUnexpectedEOF, p.lines.Err())
	}
	return json.Unmarshal(p.lines.Bytes(), v)
}

// Wait waits for the process's end.
func (p *Process) Wait() error { return p.cmd.Wait() }
