package qemu_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/snapshot"
)

// The machine runs on before QEMU's settings are restored.
func TestSave_ContComesBeforeTheSettings(t *testing.T) {
	m, memory := inMemory(t, false)
	path := filepath.Join(t.TempDir(), "s")
	_, err := vmferry.Save(t.Context(), vmferry.Snapshot{Path: path, Store: snapshot.StoreRaw}, qemu.SaveOptions{Monitor: memory, SocketDir: filepath.Dir(m.server.Path())})
	if err != nil {
		t.Fatal(err)
	}
	var calls []string
	for _, c := range memory.Calls() {
		calls = append(calls, c.Command)
	}
	migrate := slices.Index(calls, "migrate")
	after := calls[migrate:]
	cont, set := slices.Index(after, "cont"), slices.Index(after, "migrate-set-capabilities")
	if cont < 0 || set < 0 || set < cont {
		t.Errorf("after the migration began: %q, want cont before the settings", after)
	}
}

// The downtime limit begins low, grows while rounds do not help, ends at the user's, and
// is QEMU's own afterwards.
func TestSave_RaisesTheDowntimeLimit(t *testing.T) {
	m, memory := inMemory(t, false)
	before := m.settingsOf()
	var mu sync.Mutex
	var limits []int
	var rounds int
	reached := make(chan struct{})
	memory.Handle("query-migrate", func(_ context.Context, args json.RawMessage) (any, error) {
		answer, err := m.friendly("query-migrate", args)
		mu.Lock()
		defer mu.Unlock()
		rounds++
		answer.(map[string]any)["ram"] = map[string]any{"total": 1 << 20, "remaining": 1 << 16, "dirty-sync-count": rounds}
		return answer, err
	})
	memory.Handle("migrate-set-parameters", func(_ context.Context, args json.RawMessage) (any, error) {
		var set struct {
			Limit *int `json:"downtime-limit"`
		}
		if err := json.Unmarshal(args, &set); err != nil {
			return nil, err
		}
		mu.Lock()
		defer mu.Unlock()
		if set.Limit != nil {
			if limits = append(limits, *set.Limit); *set.Limit == 50 {
				close(reached)
			}
		}
		return m.friendly("migrate-set-parameters", args)
	})
	memory.Handle("migrate", func(_ context.Context, args json.RawMessage) (any, error) {
		m.set("", qmp.MigrationActive)
		m.doing.Go(func() {
			select {
			case <-reached:
				m.friendly("migrate", args)
			case <-m.over.Done():
			}
		})
		return nil, nil
	})
	path := filepath.Join(t.TempDir(), "s")
	_, err := vmferry.Save(t.Context(), vmferry.Snapshot{Path: path, Store: snapshot.StoreRaw}, qemu.SaveOptions{
		Monitor: memory, SocketDir: filepath.Dir(m.server.Path()), Downtime: 50 * time.Millisecond, MaxRounds: 1 << 30,
	})
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []int{10, 20, 40, 50, 300}; !slices.Equal(limits, want) {
		t.Errorf("limits of %v ms, want %v", limits, want)
	}
	if m.settingsOf() != before {
		t.Errorf("the settings are %s, want %s", m.settingsOf(), before)
	}
}

// guardScript is a guard process that only says that it runs, and is armed.
const guardScript = `: > "$0"; read -r recovery && [ "$recovery" != disarmed ] && echo armed; while read -r line; do :; done`

// The guard process starts while the save asks QEMU, and ends with a save that fails
// before it changes anything.
func TestSave_GuardStartsWhileQEMUIsAsked(t *testing.T) {
	for name, fails := range map[string]bool{"a save": false, "a machine that cannot be saved": true} {
		t.Run(name, func(t *testing.T) {
			m, memory := inMemory(t, false)
			started := filepath.Join(t.TempDir(), "started")
			var early atomic.Bool // the guard ran when QEMU was asked
			memory.Handle("query-status", func(ctx context.Context, args json.RawMessage) (any, error) {
				for deadline := time.Now().Add(10 * time.Second); !early.Load() && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
					_, err := os.Stat(started)
					early.Store(err == nil)
				}
				if fails {
					return map[string]any{"status": qmp.StateInmigrate}, nil
				}
				return m.friendly("query-status", args)
			})
			path := filepath.Join(t.TempDir(), "s")
			_, err := vmferry.Save(t.Context(), vmferry.Snapshot{Path: path, Store: snapshot.StoreRaw}, qemu.SaveOptions{
				Monitor: memory, SocketDir: filepath.Dir(m.server.Path()), Guard: []string{"/bin/sh", "-c", guardScript, started},
			})
			checkSaved(t, path, err)
			if fails != errors.Is(err, qemu.ErrState) {
				t.Errorf("the save: %v", err)
			}
			if !early.Load() {
				t.Error("the guard did not start before QEMU had answered")
			}
		})
	}
}

// A QEMU that can lose writes of a machine that runs gets the user's limit at once: each
// round is another chance to lose some.
func TestSave_QEMUThatLosesWritesGetsNoFurtherRounds(t *testing.T) {
	m, memory := inMemoryOf(t, false, qmp.Version{Major: 7, Minor: 2})
	memory.Answer("query-kvm", map[string]any{"enabled": false, "present": true})
	path := filepath.Join(t.TempDir(), "s")
	_, err := vmferry.Save(t.Context(), vmferry.Snapshot{Path: path, Store: snapshot.StoreRaw}, qemu.SaveOptions{
		Monitor: memory, SocketDir: filepath.Dir(m.server.Path()), Downtime: 50 * time.Millisecond, AlwaysLive: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	var limits []int
	for _, c := range memory.Calls() {
		var set struct {
			Limit *int `json:"downtime-limit"`
		}
		if c.Command == "migrate-set-parameters" && json.Unmarshal(c.Args, &set) == nil && set.Limit != nil {
			limits = append(limits, *set.Limit)
		}
	}
	if want := []int{50, 300}; !slices.Equal(limits, want) {
		t.Errorf("limits of %v ms, want %v", limits, want)
	}
}
