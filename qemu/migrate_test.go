package qemu_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
)

// migratePair migrates from src to dst through the cutter.
func (p *machinePair) migrate(t *testing.T, c *cutter, change func(*qemu.MigrateOptions, *qemu.AcceptOptions)) (result *qemu.MigrateResult, err error, accepted *qemu.AcceptResult, acceptErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// A short path: those of sockets have at most 107 bytes.
	dir, err := os.MkdirTemp("", "pair")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	from := qemu.MigrateOptions{Monitor: p.src, Dial: c.dialer(ln.Addr().String()), Inquiry: 2 * time.Second, SocketDir: dir, ConnectTimeout: -1}
	to := qemu.AcceptOptions{Monitor: p.dst, Listener: ln, Inquiry: 2 * time.Second, SocketDir: dir, Wait: time.Minute}
	if change != nil {
		change(&from, &to)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		accepted, acceptErr = qemu.Accept(ctx, to)
	}()
	result, err = qemu.Migrate(t.Context(), from)
	if c.reconnect || c.at == "" || result == nil {
		time.AfterFunc(10*time.Second, cancel)
	}
	<-done
	cancel()
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("sockets are left behind: %v", left)
	}
	return result, err, accepted, acceptErr
}

// runsAt says where the machine runs: "source", "destination", or "".
func (p *machinePair) runsAt() string {
	src, _ := p.src.get()
	dst, _ := p.dst.get()
	switch {
	case src == qmp.StateRunning:
		return "source"
	case dst == qmp.StateRunning:
		return "destination"
	}
	return ""
}

// settingsWereRestored checks the capabilities of both sides.
func (p *machinePair) settingsWereRestored(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, side := range map[string]*pairSide{"source": p.src, "destination": p.dst} {
		for capability, on := range side.caps {
			if on {
				t.Errorf("%s: the capability %s is still on", name, capability)
			}
		}
	}
}

func TestMigrate_TwoHosts(t *testing.T) {
	p := newMachinePair(t)
	result, err, accepted, acceptErr := p.migrate(t, &cutter{}, nil)
	if err != nil || acceptErr != nil {
		t.Fatalf("%v; accept: %v", err, acceptErr)
	}
	if p.runsAt() != "destination" || result.Runs != "destination" || result.RunState != qmp.StateRunning || result.SourceState != qmp.StatePostmigrate {
		t.Errorf("the machine runs at %q: %+v", p.runsAt(), result)
	}
	if !accepted.Confirmed || accepted.RunState != qmp.StateRunning || !p.dst.stopped {
		t.Errorf("%+v; the destination was told to stay paused: %v", accepted, p.dst.stopped)
	}
	p.settingsWereRestored(t)
}

func TestMigrate_OneHost(t *testing.T) {
	p := newMachinePair(t)
	result, err := qemu.Migrate(t.Context(), qemu.MigrateOptions{Monitor: p.src, Destination: p.dst, SocketDir: shortDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	if p.runsAt() != "destination" || result.Runs != "destination" || result.Destination != "memory" {
		t.Errorf("the machine runs at %q: %+v", p.runsAt(), result)
	}
	p.settingsWereRestored(t)
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pair")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// The table of docs: where the machine runs when the connections break.
func TestMigrate_LinkBreaksAtEachMessage(t *testing.T) {
	t.Parallel()
	tests := []struct {
		cutter
		runs      string
		undecided bool
	}{
		{cutter{at: "hello", reconnect: true}, "source", false},
		{cutter{at: "hello", delivered: true, reconnect: true}, "source", false},
		{cutter{at: "answer", reconnect: true}, "source", false},
		{cutter{at: "prepare", reconnect: true}, "source", false},
		{cutter{at: "prepare", delivered: true, reconnect: true}, "source", false},
		{cutter{at: "ready", reconnect: true}, "source", false},
		{cutter{at: "loaded", reconnect: true}, "source", false},
		{cutter{at: "loaded", reconnect: false}, "source", false},
		{cutter{at: "run", reconnect: true}, "source", false},
		// The question can overtake run: then the machine stays.
		{cutter{at: "run", delivered: true, reconnect: true}, "either", false},
		{cutter{at: "outcome", reconnect: true}, "destination", false},
		{cutter{at: "done", reconnect: true}, "destination", false},
		{cutter{at: "done", delivered: true, reconnect: true}, "destination", false},
		// No question is answered: the source stays paused.
		{cutter{at: "run", reconnect: false}, "", true},
		{cutter{at: "run", delivered: true, reconnect: false}, "destination", true},
		{cutter{at: "outcome", reconnect: false}, "destination", true},
	}
	for i := range tests {
		tt := &tests[i]
		t.Run(fmt.Sprintf("%s delivered=%v reconnect=%v", tt.at, tt.delivered, tt.reconnect), func(t *testing.T) {
			t.Parallel()
			p := newMachinePair(t)
			_, err, _, acceptErr := p.migrate(t, &tt.cutter, nil)
			got := p.runsAt()
			if tt.runs == "either" && got != "" {
				tt.runs = got
			}
			if got != tt.runs {
				t.Errorf("the machine runs at %q, want %q (%v; accept: %v)", got, tt.runs, err, acceptErr)
			}
			switch {
			case tt.undecided:
				if !errors.Is(err, qemu.ErrUndecided) || !strings.Contains(err.Error(), "the source is left paused") {
					t.Errorf("%v, want ErrUndecided", err)
				}
			case tt.runs == "source":
				if err == nil || !strings.HasSuffix(err.Error(), "; the source runs") {
					t.Errorf("%v, want that the source runs", err)
				}
			case err != nil:
				t.Error(err)
			}
			p.settingsWereRestored(t)
		})
	}
}
