package qmp

import (
	"context"
	"encoding/json"
	"fmt"
)

// Credentials identify the process at the other end of a unix socket, as seen
// from this process's namespaces. PID is 0 if it is not visible from here.
type Credentials struct {
	PID, UID, GID int
}

// Run states that matter around a migration; see [RunState].
const (
	StateRunning     = "running"
	StatePaused      = "paused"
	StatePostmigrate = "postmigrate" // stopped by a migration that completed
	StateInmigrate   = "inmigrate"   // waits for an incoming migration
	StatePrelaunch   = "prelaunch"   // started with -S and not yet run
)

// RunState is what the virtual machine is doing.
type RunState struct {
	Status  string `json:"status"` // one of the State constants or another of QEMU's
	Running bool   `json:"running"`
}

// QueryStatus asks what the virtual machine is doing.
func (c *Client) QueryStatus(ctx context.Context) (RunState, error) {
	var s RunState
	err := c.Execute(ctx, "query-status", nil, &s)
	return s, err
}

// Stop pauses the virtual machine's CPUs.
func (c *Client) Stop(ctx context.Context) error { return c.Execute(ctx, "stop", nil, nil) }

// Cont lets the virtual machine run (on), also after a completed migration.
// While an incoming migration is awaited it only says that the machine is to
// run once that is done.
func (c *Client) Cont(ctx context.Context) error { return c.Execute(ctx, "cont", nil, nil) }

// QueryUUID gives the virtual machine's UUID in its usual form; all zeros if
// it was given none.
func (c *Client) QueryUUID(ctx context.Context) (string, error) {
	var r struct {
		UUID string `json:"UUID"`
	}
	err := c.Execute(ctx, "query-uuid", nil, &r)
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

// QueryMemdev lists the memory backends. Memory that -m made without a
// backend of its own is not listed by older QEMUs.
func (c *Client) QueryMemdev(ctx context.Context) ([]MemoryBackend, error) {
	var list []MemoryBackend
	err := c.Execute(ctx, "query-memdev", nil, &list)
	return list, err
}

// QomGet reads a property of an object of QEMU's object tree, such as
// "mem-path" of "/objects/ram0", into the value that result points to.
func (c *Client) QomGet(ctx context.Context, path, property string, result any) error {
	var raw json.RawMessage
	err := c.Execute(ctx, "qom-get", map[string]string{"path": path, "property": property}, &raw)
	if err != nil {
		return fmt.Errorf("property %q of %s: %w", property, path, err)
	}
	if err := json.Unmarshal(raw, result); err != nil {
		return fmt.Errorf("qmp: property %q of %s: unexpected value %q: %w", property, path, printable(string(raw)), err)
	}
	return nil
}
