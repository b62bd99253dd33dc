package godemo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"github.com/vmferry/vmferry/internal/side"
)

// Side makes the command that runs one side: "source" or "destination" at an
// address, with the configuration as a line of JSON on its standard input.
type Side func(ctx context.Context, side, address string) *exec.Cmd

// patience is for a destination to see that its source is gone.
const patience = 15 * time.Second

// Run moves a machine between two processes over loopback TCP, and judges. Each
// event is shown as it comes.
func Run(ctx context.Context, cfg Config, command Side, show func(from string, e Event)) (Report, error) {
	s, err := watch(ctx, cfg, command, patience, show)
	if err != nil {
		return Report{}, err
	}
	return judge(cfg, s), nil
}

// watch runs both sides to their ends. A source that failed, or died, leaves
// the destination that patience: it may never hear of it.
func watch(ctx context.Context, cfg Config, command Side, patience time.Duration, show func(from string, e Event)) (saw, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	destination, err := start(command(ctx, "destination", "tcp:127.0.0.1:0"), cfg)
	if err != nil {
		return saw{}, fmt.Errorf("starting the destination: %w", err)
	}
	listening, err := destination.next()
	if err != nil || listening.Event != "listening" {
		cancel()
		return saw{}, fmt.Errorf("the destination does not listen: %w", errors.Join(err, destination.Wait()))
	}
	show("destination", listening)
	source, err := start(command(ctx, "source", listening.Address), cfg)
	if err != nil {
		return saw{}, fmt.Errorf("starting the source: %w", err)
	}
	var here, there saw
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		destination.each(func(e Event) {
			there.heard("destination", e)
			show("destination", e)
		})
		there.destinationErr = destination.Wait()
	}()
	source.each(func(e Event) {
		here.heard("source", e)
		show("source", e)
	})
	here.sourceErr = source.Wait()
	var lapse <-chan time.Time
	if here.source == nil || here.source.Error != "" {
		lapse = time.After(patience)
	}
	select {
	case <-ended:
	case <-lapse:
		cancel()
		<-ended
		there.cut = true
	}
	there.paused, there.source, there.sourceErr = here.paused, here.source, here.sourceErr
	return there, nil
}

// process is a side that runs.
type process struct{ *side.Process }

func start(cmd *exec.Cmd, cfg Config) (process, error) {
	p, err := side.Start(cmd, cfg)
	return process{p}, err
}

func (p process) next() (e Event, err error) {
	err = p.Next(&e)
	return e, err
}

// each calls do for every event to the end.
func (p process) each(do func(Event)) {
	for {
		e, err := p.next()
		if err != nil {
			return
		}
		do(e)
	}
}

// ReadConfig reads what start wrote.
func ReadConfig(r io.Reader) (Config, error) {
	var cfg Config
	err := json.NewDecoder(r).Decode(&cfg)
	return cfg, err
}
