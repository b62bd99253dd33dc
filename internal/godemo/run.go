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

// Side makes the command that runs one side, "source" or "destination", at an address.
// The command reads the configuration as a line of JSON from its standard input.
type Side func(ctx context.Context, side, address string) *exec.Cmd

// sourceLossTimeout bounds the wait for the destination after its source failed or died.
const sourceLossTimeout = 15 * time.Second

// Run migrates a machine between two processes over loopback TCP and reports whether
// all of it arrived. It calls show for each event.
func Run(ctx context.Context, cfg Config, command Side, show func(from string, e Event)) (Report, error) {
	s, err := runSides(ctx, cfg, command, sourceLossTimeout, show)
	if err != nil {
		return Report{}, err
	}
	return newReport(cfg, s), nil
}

// runSides runs both sides until they end. If the source failed or died, runSides kills
// a destination that has not ended after lossTimeout: the destination may not notice.
func runSides(ctx context.Context, cfg Config, command Side, lossTimeout time.Duration, show func(from string, e Event)) (observed, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	destination, err := start(command(ctx, "destination", "tcp:127.0.0.1:0"), cfg)
	if err != nil {
		return observed{}, fmt.Errorf("starting the destination: %w", err)
	}
	listening, err := destination.next()
	if err != nil || listening.Event != "listening" {
		cancel()
		return observed{}, fmt.Errorf("the destination does not listen: %w", errors.Join(err, destination.Wait()))
	}
	show("destination", listening)
	source, err := start(command(ctx, "source", listening.Address), cfg)
	if err != nil {
		return observed{}, fmt.Errorf("starting the source: %w", err)
	}
	var atSource, all observed
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		destination.forEachEvent(func(e Event) {
			all.record("destination", e)
			show("destination", e)
		})
		all.destinationErr = destination.Wait()
	}()
	source.forEachEvent(func(e Event) {
		atSource.record("source", e)
		show("source", e)
	})
	atSource.sourceErr = source.Wait()
	var expired <-chan time.Time
	if atSource.source == nil || atSource.source.Error != "" {
		expired = time.After(lossTimeout)
	}
	select {
	case <-ended:
	case <-expired:
		cancel()
		<-ended
		all.destinationKilled = true
	}
	all.paused, all.source, all.sourceErr = atSource.paused, atSource.source, atSource.sourceErr
	return all, nil
}

// process is the process of a side.
type process struct{ *side.Process }

func start(cmd *exec.Cmd, cfg Config) (process, error) {
	p, err := side.Start(cmd, cfg)
	return process{p}, err
}

func (p process) next() (e Event, err error) {
	err = p.Next(&e)
	return e, err
}

// forEachEvent calls do for every event until the process closes its output.
func (p process) forEachEvent(do func(Event)) {
	for {
		e, err := p.next()
		if err != nil {
			return
		}
		do(e)
	}
}

// ReadConfig reads the configuration that start writes to the standard input of a side.
func ReadConfig(r io.Reader) (Config, error) {
	var cfg Config
	err := json.NewDecoder(r).Decode(&cfg)
	return cfg, err
}
