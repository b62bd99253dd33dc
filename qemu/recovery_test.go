package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/internal/cause"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

// machine is a QEMU whose migration has ended and whose machine is in some state.
func machine(state string) *qmptest.Memory {
	s := qmptest.NewMemory(qmp.Version{})
	var now atomic.Value
	now.Store(state)
	s.Handle("query-status", func(context.Context, json.RawMessage) (any, error) {
		return map[string]any{"status": now.Load(), "running": now.Load() == qmp.StateRunning}, nil
	})
	s.Handle("cont", func(context.Context, json.RawMessage) (any, error) {
		now.Store(qmp.StateRunning)
		return nil, nil
	})
	s.Answer("query-migrate", map[string]any{"status": "completed"})
	s.Answer("query-yank", []any{map[string]any{"type": "chardev", "id": "compat_monitor0"}})
	s.Answer("migrate-set-parameters", nil)
	s.Answer("migrate-set-capabilities", nil)
	return s
}

func commandsOf(s *qmptest.Memory) (names []string) {
	for _, call := range s.Calls() {
		names = append(names, call.Command)
	}
	return names
}

func TestRecovery_ResumesOnlyWhatTheSavePaused(t *testing.T) {
	tests := []struct {
		name   string
		r      recovery
		state  string
		resume bool
	}{
		{"ran, and the stream says so", recovery{Ran: true, Saved: "running"}, "postmigrate", true},
		{"ran when last looked at", recovery{Ran: true}, "postmigrate", true},
		{"slept", recovery{Ran: true, Saved: "suspended"}, "postmigrate", true},
		{"paused before", recovery{}, "postmigrate", false},
		{"powered off during the save", recovery{Ran: true, Saved: "shutdown"}, "postmigrate", false},
		{"panicked during the save", recovery{Ran: true, Saved: "guest-panicked"}, "postmigrate", false},
		{"ran into an I/O error during the save", recovery{Ran: true, Saved: "io-error"}, "postmigrate", false},
		{"paused by something else during the save", recovery{Ran: true}, "paused", false},
		{"paused by the save", recovery{Ran: true, Stopped: true}, "paused", true},
		{"paused by the save, and migrated", recovery{Ran: true, Stopped: true, Saved: "paused"}, "postmigrate", true},
		{"powered off before the save could pause it", recovery{Ran: true, Stopped: true, Saved: "shutdown"}, "postmigrate", false},
		{"powered off, the migration failed", recovery{Ran: true}, "shutdown", false},
		{"stays paused on purpose", recovery{Ran: true, Saved: "running", KeepPaused: true}, "postmigrate", false},
		{"runs already", recovery{Ran: true}, "running", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := machine(tt.state)
			if err := tt.r.run(t.Context(), vmOf(t, s)); err != nil {
				t.Fatal(err)
			}
			if got := slices.Contains(commandsOf(s), "cont"); got != tt.resume {
				t.Errorf("cont was sent: %v, want %v", got, tt.resume)
			}
		})
	}
}

func TestRecovery_SettingsWaitForCleanup(t *testing.T) {
	s := machine(qmp.StateRunning)
	var asked atomic.Int32
	s.Handle("query-yank", func(context.Context, json.RawMessage) (any, error) {
		if asked.Add(1) < 4 {
			return []any{map[string]any{"type": "migration"}}, nil
		}
		return []any{}, nil
	})
	r := recovery{Ran: true, Before: settings{Capabilities: map[string]bool{"multifd": false}}}
	if err := r.run(t.Context(), vmOf(t, s)); err != nil {
		t.Fatal(err)
	}
	calls := commandsOf(s)
	lastYank, firstSet := 0, -1
	for i, name := range calls {
		if name == "query-yank" {
			lastYank = i
		}
		if strings.HasPrefix(name, "migrate-set") && firstSet < 0 {
			firstSet = i
		}
	}
	if asked.Load() != 4 || firstSet < lastYank {
		t.Errorf("settings were changed before the cleanup was over: %q", calls)
	}
}

func TestGuard_LastRecoveryCounts(t *testing.T) {
	for name, tt := range map[string]struct {
		last   recovery
		tail   string
		resume bool
	}{
		"the machine ran":                {recovery{Ran: true}, "", true},
		"the machine powered off":        {recovery{Ran: true, Saved: "shutdown"}, "", false},
		"an order that is cut off":       {recovery{Ran: true}, `{"monitor":{"qmp":"/nowhere`, true},
		"the process ended as it should": {recovery{Ran: true}, disarmed, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := machine(qmp.StatePostmigrate)
			first := recovery{Monitor: s}
			tt.last.Monitor = s
			in := lineOf(t, &first) + lineOf(t, &tt.last) + tt.tail
			if err := guardBy(strings.NewReader(in), io.Discard, parseMemory(s), new(heldSockets), func(*recovery) {}); err != nil {
				t.Fatal(err)
			}
			if got := slices.Contains(commandsOf(s), "cont"); got != tt.resume {
				t.Errorf("cont was sent: %v, want %v", got, tt.resume)
			}
		})
	}
}

// lineOf is a recovery as the guard gets it.
func lineOf(t *testing.T, r *recovery) string {
	t.Helper()
	line, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(line) + "\n"
}

// parseMemory knows one QEMU in memory, by the JSON that it writes.
func parseMemory(s *qmptest.Memory) ParseMonitor {
	return func(b []byte) (qmp.Opener, error) {
		if want, err := s.MarshalJSON(); err != nil || string(b) != string(want) {
			return nil, fmt.Errorf("%q is not %q (%v)", b, want, err)
		}
		return s, nil
	}
}

func TestGuard_UnknownMonitorEndsTheGuardBeforeTheSave(t *testing.T) {
	var out strings.Builder
	in := lineOf(t, &recovery{Monitor: machine(qmp.StateRunning)})
	err := guardBy(strings.NewReader(in), &out, qmp.SocketFromJSON, new(heldSockets), func(*recovery) {})
	if err == nil || out.Len() > 0 {
		t.Errorf("the guard says %q and %v, want an error and nothing said", out.String(), err)
	}
	// A line that is cut off is the parent's end, and no error.
	if err := guardBy(strings.NewReader(in[:len(in)/2]), &out, qmp.SocketFromJSON, new(heldSockets), func(*recovery) {}); err != nil || out.Len() > 0 {
		t.Errorf("the guard says %q and %v, want nothing", out.String(), err)
	}
}

func TestReadRecovery_RoundTrip(t *testing.T) {
	want := &recovery{
		Monitor: qmp.Socket("/run/vm.sock"), Ran: true, Stopped: true, Saved: "paused", KeepPaused: true,
		Before: settings{Capabilities: map[string]bool{"multifd": false}, Parameters: qmp.MigrateParameters{MultifdChannels: new(3)}},
		Dir:    &dirIdentity{Path: "/tmp/x", Dev: 1, Inode: 2},
	}
	got, err := readRecovery([]byte(lineOf(t, want)), qmp.SocketFromJSON)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A monitor that ends does not end the recovery while QEMU is there.
func TestRecovery_ReopensAnEndedMonitor(t *testing.T) {
	s := machine(qmp.StatePostmigrate)
	s.Handle("query-yank", func(context.Context, json.RawMessage) (any, error) {
		if s.Opened() < 3 {
			s.Disconnect()
		}
		return []any{}, nil
	})
	r := recovery{Monitor: s, Ran: true}
	if err := r.reopenAndRun(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.Opened() != 3 || !slices.Contains(commandsOf(s), "cont") {
		t.Errorf("%d monitors were opened for %q", s.Opened(), commandsOf(s))
	}
	s.Die()
	if err := r.reopenAndRun(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("QEMU died: %v, want ErrGone", err)
	}
}

func TestExplain_PrefersTheSideThatKnowsTheCause(t *testing.T) {
	cancelled := errorOfMigration(qmp.Migration{Status: qmp.MigrationCancelled}, sending)
	full := errors.New("no space left on device")
	left := fmt.Errorf("main channel: %w", multifd.ErrTruncated)
	broken := errorOfMigration(qmp.Migration{Status: qmp.MigrationFailed, ErrorDesc: "Broken pipe"}, sending)
	if err := cause.Of(t.Context(), left, cancelled, doing); !strings.HasPrefix(err.Error(), "the migration was cancelled at QEMU") || !errors.Is(err, multifd.ErrTruncated) {
		t.Errorf("%v", err)
	}
	if err := cause.Of(t.Context(), full, broken, doing); err != full {
		t.Errorf("%v, want what came first", err)
	}
	if err := cause.Of(t.Context(), left, nil, doing); err != left {
		t.Errorf("%v", err)
	}
	if err := cause.Of(t.Context(), nil, broken, doing); err != broken {
		t.Errorf("%v", err)
	}
}
