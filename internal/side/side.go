// Package side runs one side of a migration as a process of its own. The process reads
// and writes JSON values, one a line.
package side

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
)

// maxLine bounds a line that a side writes.
const maxLine = 16 << 20

// Process is a running side.
type Process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

// Start starts the command and sends it the first value.
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
	p.lines.Buffer(nil, maxLine)
	return p, p.Send(first)
}

// Send writes v as a line to the standard input of the process.
func (p *Process) Send(v any) error { return json.NewEncoder(p.in).Encode(v) }

// Next reads the next line of the standard output of the process into v. If there is no
// further line, the error wraps io.ErrUnexpectedEOF.
func (p *Process) Next(v any) error {
	if !p.lines.Scan() {
		return errors.Join(io.ErrUnexpectedEOF, p.lines.Err())
	}
	return json.Unmarshal(p.lines.Bytes(), v)
}

// Wait waits until the process has ended.
func (p *Process) Wait() error { return p.cmd.Wait() }
