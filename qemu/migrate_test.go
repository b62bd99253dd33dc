package qemu_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qemu/agreement"
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

// failsAtSource checks a migration that failed: the machine runs at the source, and the
// errors of both sides say why.
func (p *machinePair) failsAtSource(t *testing.T, want string, change func(*qemu.MigrateOptions, *qemu.AcceptOptions)) {
	t.Helper()
	_, err, _, acceptErr := p.migrate(t, &cutter{}, change)
	if err == nil || !strings.Contains(err.Error(), want) || !strings.HasSuffix(err.Error(), "; the source runs") {
		t.Errorf("%v, want %q and that the source runs", err, want)
	}
	if acceptErr == nil {
		t.Error("accept succeeds")
	}
	if got := p.runsAt(); got != "source" {
		t.Errorf("the machine runs at %q", got)
	}
	p.settingsWereRestored(t)
}

func TestMigrate_DestinationThatCannotLoad(t *testing.T) {
	p := newMachinePair(t)
	p.dst.loads = errors.New("unknown section")
	p.failsAtSource(t, "QEMU could not load the machine", nil)
}

// The machine is loaded, and QEMU refuses to let it run there, as when a disk is locked.
func TestMigrate_DestinationThatCannotRunTheMachine(t *testing.T) {
	p := newMachinePair(t)
	p.dst.cont = errors.New("Failed to get \"write\" lock")
	p.failsAtSource(t, "write", nil)
}

func TestMigrate_CommandAtThePauseFails(t *testing.T) {
	p := newMachinePair(t)
	p.src.holdRound = true
	p.src.Handle("migrate-continue", func(context.Context, json.RawMessage) (any, error) {
		t.Error("the migration goes on")
		return nil, nil
	})
	p.src.Handle("migrate", func(_ context.Context, args json.RawMessage) (any, error) {
		p.src.set(func() { p.src.migration, p.src.status = qmp.MigrationPreSwitchover, "finish-migrate" })
		return nil, nil
	})
	p.src.Handle("migrate_cancel", func(context.Context, json.RawMessage) (any, error) {
		p.src.set(func() {
			p.src.migration = qmp.MigrationCancelled
			p.src.resume()
		})
		return nil, nil
	})
	p.failsAtSource(t, "the command at the pause failed, so the machine stays here", func(from *qemu.MigrateOptions, _ *qemu.AcceptOptions) {
		from.AtPause, from.AtPauseTimeout = "echo no; exit 3", time.Minute
	})
}

// A mirror of the source's disk was not ended: the machine could not write to its disk.
func TestMigrate_DestinationThatStillExportsItsDisk(t *testing.T) {
	p := newMachinePair(t)
	p.dst.Handle("query-block-exports", func(context.Context, json.RawMessage) (any, error) {
		return []any{map[string]any{"id": "mig0", "node-name": "disk0", "type": "nbd"}}, nil
	})
	p.failsAtSource(t, `still exports the disk "disk0" (nbd export "mig0")`, nil)
}

// The destination names the source's reason, and not the question to its QEMU that the
// reason ended.
func TestAccept_NamesTheReasonOfTheSource(t *testing.T) {
	p := newMachinePair(t)
	p.src.holdRound = true
	_, _, _, err := p.migrate(t, &cutter{}, func(from *qemu.MigrateOptions, _ *qemu.AcceptOptions) { from.MaxRounds = 1 })
	if err == nil || !strings.Contains(err.Error(), qemu.ErrDiverges.Error()) || strings.Contains(err.Error(), "context canceled") {
		t.Errorf("got %v, want the reason of the source: %v", err, qemu.ErrDiverges)
	}
}

func TestMigrate_MachineThatDivergesStays(t *testing.T) {
	p := newMachinePair(t)
	p.src.holdRound = true // the rounds do not end
	_, err, _, _ := p.migrate(t, &cutter{}, func(from *qemu.MigrateOptions, _ *qemu.AcceptOptions) { from.MaxRounds = 1 })
	if !errors.Is(err, qemu.ErrDiverges) || !strings.HasSuffix(err.Error(), "; the source runs") || p.runsAt() != "source" {
		t.Errorf("%v, and the machine runs at %q; want ErrDiverges", err, p.runsAt())
	}
	p.settingsWereRestored(t)
}

// Nothing is changed at either side, and the destination waits for the next source.
func TestMigrate_DryRunChangesNothing(t *testing.T) {
	p := newMachinePair(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := qemu.Accept(ctx, qemu.AcceptOptions{Monitor: p.dst, Listener: ln, SocketDir: shortDir(t)})
		done <- err
	}()
	p.dst.set(func() { p.dst.uuid = "11111111-2222-3333-4444-555555555555" })
	var c cutter
	for range 2 {
		result, err := qemu.Migrate(t.Context(), qemu.MigrateOptions{Monitor: p.src, Dial: c.dialer(ln.Addr().String()), DryRun: true})
		if !errors.As(err, new(*qemu.MismatchError)) || result == nil || len(result.Differences) != 1 || !strings.Contains(result.Differences[0], "-uuid 00000000") {
			t.Errorf("%+v, %v; want the difference of the UUIDs", result, err)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("accept: %v", err)
	}
	for _, side := range []*pairSide{p.src, p.dst} {
		for _, call := range side.Calls() {
			if !strings.HasPrefix(call.Command, "query-") && !strings.HasPrefix(call.Command, "qom-") && call.Command != "x-query-ramblock" {
				t.Errorf("the dry run executes %s", call.Command)
			}
		}
	}
}

func TestAccept_SourceThatDoesNotConnect(t *testing.T) {
	p := newMachinePair(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := qemu.Accept(t.Context(), qemu.AcceptOptions{Monitor: p.dst, Listener: ln, Wait: 50 * time.Millisecond}); err == nil || !strings.Contains(err.Error(), "no source connected within 50ms") {
		t.Errorf("%v, want that no source connected", err)
	}
}

// A source that was killed or whose host is gone says nothing more.
func TestAccept_SilentSource(t *testing.T) {
	p := newMachinePair(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		conn.Write([]byte("vmferry\x01\x01" + strings.Repeat("\x00", 16)))
		<-p.over.Done()
		conn.Close()
	}()
	// The silent one is dropped, and the wait for another one ends.
	_, err = qemu.Accept(t.Context(), qemu.AcceptOptions{Monitor: p.dst, Listener: ln, Wait: 500 * time.Millisecond, LinkTimeout: 100 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "no source connected") {
		t.Errorf("%v, want that no source connected", err)
	}
}

// A destination that says nothing, as when its host is gone.
func TestMigrate_SilentDestination(t *testing.T) {
	p := newMachinePair(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var c cutter
	_, err = qemu.Migrate(t.Context(), qemu.MigrateOptions{Monitor: p.src, Dial: c.dialer(ln.Addr().String()), LinkTimeout: 100 * time.Millisecond})
	if !errors.Is(err, agreement.ErrSilent) || !strings.HasSuffix(err.Error(), "; the source runs") {
		t.Errorf("%v, want ErrSilent", err)
	}
}

// A QEMU that is frozen ends the task, at either side.
func TestMigrate_SilentQEMU(t *testing.T) {
	p := newMachinePair(t)
	p.src.Hang("query-uuid")
	_, err := qemu.Migrate(t.Context(), qemu.MigrateOptions{Monitor: p.src, Destination: p.dst, StallTimeout: 50 * time.Millisecond})
	if !errors.Is(err, qmp.ErrSilent) {
		t.Errorf("%v, want ErrSilent", err)
	}
}

func TestAccept_SilentQEMU(t *testing.T) {
	p := newMachinePair(t)
	p.dst.Hang("query-uuid")
	_, err, _, acceptErr := p.migrate(t, &cutter{}, func(_ *qemu.MigrateOptions, to *qemu.AcceptOptions) { to.StallTimeout = 50 * time.Millisecond })
	if !errors.Is(acceptErr, qmp.ErrSilent) || err == nil || !strings.HasSuffix(err.Error(), "; the source runs") {
		t.Errorf("%v; accept: %v, want ErrSilent", err, acceptErr)
	}
}
