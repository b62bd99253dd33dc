package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Machine is a virtual machine behind a monitor: QEMU's commands with types, and
// a bound on the wait for each answer.
type Machine struct {
	Monitor
	answerTimeout atomic.Int64 // see SetAnswerTimeout
}

// NewMachine returns the machine behind a monitor.
func NewMachine(m Monitor) *Machine { return &Machine{Monitor: m} }

// SetAnswerTimeout bounds the wait for the answer to each command from now on, in
// addition to the context: a QEMU that is frozen, or whose main loop hangs, does not
// answer. The error then wraps [ErrSilent]. 0, as at the beginning, is no bound.
func (vm *Machine) SetAnswerTimeout(d time.Duration) { vm.answerTimeout.Store(int64(d)) }

// Execute runs a command, as [Monitor] says, for at most the time of
// SetAnswerTimeout.
func (vm *Machine) Execute(ctx context.Context, command string, args, result any) error {
	d := time.Duration(vm.answerTimeout.Load())
	if d <= 0 {
		return vm.Monitor.Execute(ctx, command, args, result)
	}
	short, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	err := vm.Monitor.Execute(short, command, args, result)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w for %v (is its process frozen?): %w", ErrSilent, d, err)
	}
	return err
}

// Run states that matter around a migration; see [RunState].
const (
	StateRunning     = "running"
	StatePaused      = "paused"
	StatePostmigrate = "postmigrate" // stopped by a migration that completed
	StateInmigrate   = "inmigrate"   // waits for an incoming migration
	StatePrelaunch   = "prelaunch"   // started with -S and not yet run
)

// RunState is the run state of the virtual machine.
type RunState struct {
	Status  string `json:"status"` // one of the State constants or another of QEMU's
	Running bool   `json:"running"`
}

// QueryStatus returns the run state of the virtual machine.
func (vm *Machine) QueryStatus(ctx context.Context) (RunState, error) {
	var s RunState
	err := vm.Execute(ctx, "query-status", nil, &s)
	return s, err
}

// Stop pauses the virtual machine's CPUs.
func (vm *Machine) Stop(ctx context.Context) error { return vm.Execute(ctx, "stop", nil, nil) }

// Cont lets the virtual machine run (on), also after a completed migration.
// Before an incoming migration it only sets that the machine runs after the
// migration.
func (vm *Machine) Cont(ctx context.Context) error { return vm.Execute(ctx, "cont", nil, nil) }

// QueryUUID returns the virtual machine's UUID in its usual form; all zeros if the
// machine has none.
func (vm *Machine) QueryUUID(ctx context.Context) (string, error) {
	var r struct {
		UUID string `json:"UUID"`
	}
	err := vm.Execute(ctx, "query-uuid", nil, &r)
	return r.UUID, err
}

// MemoryBackend describes one memory backend, which becomes a RAM block.
type MemoryBackend struct {
	ID       string `json:"id"`       // empty for one that QEMU made itself
	Size     uint64 `json:"size"`     // bytes
	Prealloc bool   `json:"prealloc"` // all pages were touched at the start
	Share    *bool  `json:"share"`    // mapped MAP_SHARED
	Merge    bool   `json:"merge"`    // offered to KSM
	Dump     bool   `json:"dump"`     // part of core dumps
	Policy   string `json:"policy"`   // NUMA policy, mostly "default"
}

// QueryMemdev lists the memory backends. Older QEMUs leave out memory that
// -m made without a backend.
func (vm *Machine) QueryMemdev(ctx context.Context) ([]MemoryBackend, error) {
	var list []MemoryBackend
	err := vm.Execute(ctx, "query-memdev", nil, &list)
	return list, err
}

// QomGet reads a property of an object of QEMU's object tree, such as
// "mem-path" of "/objects/ram0", into the value that result points to.
func (vm *Machine) QomGet(ctx context.Context, path, property string, result any) error {
	var raw json.RawMessage
	err := vm.Execute(ctx, "qom-get", map[string]string{"path": path, "property": property}, &raw)
	if err != nil {
		return fmt.Errorf("property %q of %s: %w", property, path, err)
	}
	if err := json.Unmarshal(raw, result); err != nil {
		return fmt.Errorf("qmp: property %q of %s: unexpected value %q: %w", property, path, printable(string(raw)), err)
	}
	return nil
}
