//go:build netns && realqemu

package qemu_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/slowlink"
	"github.com/vmferry/vmferry/qmp"
)

// A relay is killed, or the link is cut or stalled, at a random moment. The test drives
// the QEMUs as platforms do: the destination starts paused, and runs after QEMU's return
// path has confirmed to the source that the machine is loaded. QEMU's status says where the
// machine runs.
func TestRealQEMURelay_FaultsOverASlowLink(t *testing.T) {
	runFaultTrials(t, true, func(link *faultyLink, src, dst *host) mover {
		return &relayPair{link: link, src: src, dst: dst, dead: make(map[slowlink.End]bool)}
	})
}

// relayPair moves a machine through a pair of relays.
type relayPair struct {
	link     *faultyLink
	src, dst *host
	monitors [2]*qmp.Client
	relays   [2]*command
	dead     map[slowlink.End]bool
}

func (p *relayPair) start() error {
	t := p.link.t
	dir, err := os.MkdirTemp("", "vf") // a short name, for the sockets
	if err != nil {
		return err
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	front, back := filepath.Join(dir, "front"), filepath.Join(dir, "back")
	p.relays[slowlink.Destination] = p.link.start(slowlink.Destination, "relay", "--link", "destination", "--listen", "tcp:"+p.link.listenAddress(), "--connect", "unix:"+back)
	p.relays[slowlink.Source] = p.link.start(slowlink.Source, "relay", "--link", "source", "--listen", "unix:"+front, "--connect", "tcp:"+p.link.connectAddress())
	for i, h := range []*host{p.src, p.dst} {
		if p.monitors[i], err = p.configure(h); err != nil {
			return err
		}
	}
	p.link.awaitListener()
	p.link.await("the source's relay listens", func() (bool, error) {
		_, err := os.Stat(front)
		return err == nil, nil
	})
	if err := p.monitors[slowlink.Destination].MigrateIncoming(t.Context(), "unix:"+back); err != nil {
		return err
	}
	return p.monitors[slowlink.Source].Migrate(t.Context(), "unix:"+front)
}

func (p *relayPair) configure(h *host) (*qmp.Client, error) {
	ctx := p.link.t.Context()
	c, err := qmp.Dial(ctx, h.QMPPath())
	if err != nil {
		return nil, err
	}
	return c, errors.Join(
		c.AwaitMigrationCleanup(ctx),
		c.SetMigrateCapabilities(ctx, map[string]bool{"multifd": true, "return-path": true, "events": true}),
		c.SetMigrateParameters(ctx, qmp.MigrateParameters{MultifdChannels: new(2), MaxBandwidth: new(uint64(1 << 30)), DowntimeLimit: new(qmp.Milliseconds(500))}),
	)
}

func (p *relayPair) kill(e slowlink.End) {
	p.dead[e] = true
	p.relays[e].Process.Kill()
}

func (p *relayPair) drive(ctx context.Context) (string, error) {
	source, destination := p.monitors[slowlink.Source], p.monitors[slowlink.Destination]
	for {
		m, err := source.QueryMigrate(ctx)
		switch {
		case err != nil:
			return "", fmt.Errorf("the source's QEMU: %w", err)
		case m.Status == qmp.MigrationCompleted:
			return runsAtDestination, letLoadedRun(ctx, destination)
		case m.Ended():
			return runsAtSource, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// letLoadedRun lets the machine run at the destination. A source that has completed its
// migration has learned that the machine is loaded there.
func letLoadedRun(ctx context.Context, destination *qmp.Client) error {
	for {
		status, err := destination.QueryStatus(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("the source has completed the migration, and the destination's QEMU: %w", err)
		case status.Status == qmp.StatePaused || status.Status == qmp.StatePrelaunch:
			return destination.Cont(ctx)
		case status.Status != qmp.StateInmigrate:
			return fmt.Errorf("the source has completed the migration, and the destination is %q", status.Status)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// finish checks that a relay that was not killed lives on, and ends it.
func (p *relayPair) finish(ctx context.Context) (string, error) {
	for _, c := range p.monitors {
		c.Close()
	}
	for e, relay := range p.relays {
		if !p.dead[slowlink.End(e)] {
			if err := relay.Process.Signal(syscall.SIGTERM); err != nil {
				return "", err
			}
		}
		ended := make(chan error, 1)
		go func() { ended <- relay.Wait() }()
		select {
		case <-ended:
		case <-ctx.Done():
			relay.Process.Kill()
			<-ended
			return "", fmt.Errorf("the %s's relay does not end", endNames[slowlink.End(e)])
		}
		var signalled bool
		if ws, ok := relay.ProcessState.Sys().(syscall.WaitStatus); ok {
			signalled = ws.Signaled()
		}
		if signalled != p.dead[slowlink.End(e)] {
			return "", fmt.Errorf("the %s's relay ended with %v", endNames[slowlink.End(e)], relay.ProcessState)
		}
	}
	return "", nil
}

func (p *relayPair) log() string {
	return fmt.Sprintf("the source's relay:\n%s\nthe destination's relay:\n%s", &p.relays[slowlink.Source].out, &p.relays[slowlink.Destination].out)
}
