package qemu_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
	"github.com/vmferry/vmferry/snapshot"
)

// inMemory is a friendly QEMU whose monitor is no socket.
func inMemory(t *testing.T, incoming bool) (*hostileMonitor, *qmptest.Memory) {
	t.Helper()
	return inMemoryOf(t, incoming, qmp.Version{Major: 10})
}

// inMemoryOf is one of a version.
func inMemoryOf(t *testing.T, incoming bool, version qmp.Version) (*hostileMonitor, *qmptest.Memory) {
	t.Helper()
	m := newHostileMonitor(t, nil, 0, incoming, savedMachine(t))
	memory := qmptest.NewMemory(version)
	for _, command := range hostileCommands {
		memory.Handle(command, func(_ context.Context, args json.RawMessage) (any, error) { return m.friendly(command, args) })
	}
	return m, memory
}

// settingsOf are QEMU's migration settings as text.
func (m *hostileMonitor) settingsOf() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	text, err := json.Marshal([]any{m.caps, m.params})
	if err != nil {
		m.t.Fatal(err)
	}
	return string(text)
}

func TestSave_OverAMonitorWithoutSocket(t *testing.T) {
	m, memory := inMemory(t, false)
	before := m.settingsOf()
	path := filepath.Join(t.TempDir(), "s")
	result, err := vmferry.Save(t.Context(), vmferry.Snapshot{Path: path, Store: snapshot.StoreRaw}, qemu.SaveOptions{Monitor: memory, SocketDir: filepath.Dir(m.server.Path())})
	checkSaved(t, path, err)
	if err != nil {
		t.Fatal(err)
	}
	if result.RunState != qmp.StateRunning || memory.Opened() != 1 || m.settingsOf() != before {
		t.Errorf("the machine is %q over %d monitors, with the settings %s, want %s", result.RunState, memory.Opened(), m.settingsOf(), before)
	}
}

func TestRestore_OverAMonitorWithoutSocket(t *testing.T) {
	m, memory := inMemory(t, true)
	before := m.settingsOf()
	result, err := qemu.Restore(t.Context(), m.saved, qemu.RestoreOptions{Monitor: memory, SocketDir: filepath.Dir(m.server.Path())})
	if err != nil {
		t.Fatal(err)
	}
	if result.RunState != qmp.StateRunning || !result.DigestsVerified || m.settingsOf() != before {
		t.Errorf("%+v with the settings %s, want %s", result, m.settingsOf(), before)
	}
}

// The save's monitor ends in the middle of the migration. The save fails, and puts the
// machine in order over another monitor.
func TestSave_ReopensAnEndedMonitor(t *testing.T) {
	m, memory := inMemory(t, false)
	before := m.settingsOf()
	memory.Handle("migrate", func(context.Context, json.RawMessage) (any, error) {
		m.set(qmp.StateRunning, qmp.MigrationActive)
		memory.Disconnect()
		return nil, nil
	})
	path := filepath.Join(t.TempDir(), "s")
	_, err := vmferry.Save(t.Context(), vmferry.Snapshot{Path: path, Store: snapshot.StoreRaw}, qemu.SaveOptions{Monitor: memory, SocketDir: filepath.Dir(m.server.Path())})
	checkSaved(t, path, err)
	if !errors.Is(err, qmp.ErrClosed) || errors.Is(err, qemu.ErrGone) {
		t.Errorf("the save: %v, want that the monitor ended, and not QEMU", err)
	}
	m.mu.Lock()
	status, phase := m.status, m.migration
	m.mu.Unlock()
	if memory.Opened() != 2 || status != qmp.StateRunning || phase != qmp.MigrationCancelled || m.settingsOf() != before {
		t.Errorf("over %d monitors the machine is %q, the migration %q and the settings are %s, want %s", memory.Opened(), status, phase, m.settingsOf(), before)
	}
}

func TestSave_DoesNotWaitForADeadQEMU(t *testing.T) {
	m, memory := inMemory(t, false)
	memory.Handle("migrate", func(context.Context, json.RawMessage) (any, error) {
		memory.Die()
		return nil, nil
	})
	path := filepath.Join(t.TempDir(), "s")
	_, err := vmferry.Save(t.Context(), vmferry.Snapshot{Path: path, Store: snapshot.StoreRaw}, qemu.SaveOptions{Monitor: memory, SocketDir: filepath.Dir(m.server.Path())})
	checkSaved(t, path, err)
	if !errors.Is(err, qemu.ErrGone) {
		t.Errorf("%v, want ErrGone", err)
	}
}
