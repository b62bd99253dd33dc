package godemo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"
)

// Side makes the command that runs one side: "source" or "destination" at an
// address, with the configuration as a line of JSON on its standard input.
type Side func(ctx context.Context, side, address string) *exec.Cmd

// Run moves a machine between two processes over loopback TCP, and judges. Each
// event is shown as it comes.
func Run(ctx context.Context, cfg Config, side Side, show func(from string, e Event)) (Report, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var s saw
	destination, err := start(side(ctx, "destination", "tcp:127.0.0.1:0"), cfg)
	if err != nil {
		return Report{}, fmt.Errorf("starting the destination: %w", err)
	}
	listening, err := destination.next()
	if err != nil || listening.Event != "listening" {
		cancel()
		return Report{}, fmt.Errorf("the destination does not listen: %w", errors.Join(err, destination.wait()))
	}
	show("destination", listening)
	source, err := start(side(ctx, "source", listening.Address), cfg)
	if err != nil {
		return Report{}, fmt.Errorf("starting the source: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		destination.each(func(e Event) {
			switch e.Event {
			case "arrived":
				s.arrived = &e
			case "ended":
				s.destination = &e
			}
			show("destination", e)
		})
		s.destinationErr = destination.wait()
	}()
	source.each(func(e Event) {
		if e.Event == "ended" {
			s.source = &e
		}
		show("source", e)
	})
	s.sourceErr = source.wait()
	if s.source == nil || s.source.Error != "" {
		// The destination may never hear of it.
		time.AfterFunc(2*time.Second, cancel)
	}
	<-ended
	return judge(cfg, s), nil
}

// process is a side that runs.
type process struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func start(cmd *exec.Cmd, cfg Config) (*process, error) {
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
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
	_, err = in.Write(append(text, '\n'))
	err = errors.Join(err, in.Close())
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	return &process{cmd, lines}, err
}

func (p *process) next() (Event, error) {
	if !p.lines.Scan() {
		return Event{}, errors.Join(io.ErrUnexpectedEOF, p.lines.Err())
	}
	var e Event
	err := json.Unmarshal(p.lines.Bytes(), &e)
	return e, err
}

// each calls do for every event to the end.
func (p *process) each(do func(Event)) {
	for {
		e, err := p.next()
		if err != nil {
			return
		}
		do(e)
	}
}

func (p *process) wait() error { return p.cmd.Wait() }

// ReadConfig reads what start wrote.
func ReadConfig(r io.Reader) (Config, error) {
	var cfg Config
	err := json.NewDecoder(r).Decode(&cfg)
	return cfg, err
}
