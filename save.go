package vmferry

import (
	"context"
	"time"

	"github.com/vmferry/vmferry/qemu"
)

// SaveResult describes a save that succeeded. Durations in its JSON are in nanoseconds.
type SaveResult struct {
	Snapshot string `json:"snapshot"`
	// Total is the whole time. Paused is how long the machine was paused; 0 if it did
	// not run before. Downtime is the same as QEMU reports it, without AtPause.
	Total    time.Duration `json:"total_ns"`
	Paused   time.Duration `json:"paused_ns"`
	Downtime time.Duration `json:"downtime_ns"`
	// Rounds are the passes over the dirty pages, Received what the connections
	// carried.
	Rounds   uint64 `json:"rounds"`
	Received uint64 `json:"received_bytes"`
	// Bytes is the size of the snapshot, Pages the pages that it keeps, Zero the
	// others.
	Bytes int64  `json:"snapshot_bytes"`
	Pages uint64 `json:"pages"`
	Zero  uint64 `json:"zero_pages"`
	// RunState is the state of the machine after the save. SavedRunState is the state
	// in the snapshot, in which a restore starts the machine.
	RunState      string `json:"run_state"`
	SavedRunState string `json:"saved_run_state"`
}

// Save saves a QEMU machine to a new snapshot while the machine runs. After Save, also
// if it fails, the machine is in the state that it was in, unless opts.StayPaused is
// set. A save that fails leaves no snapshot. When Save returns nil, the snapshot is
// durable and was read back.
//
// When ctx ends, Save ends the migration at QEMU and brings the machine back to its
// state before it returns.
func Save(ctx context.Context, to Snapshot, opts qemu.SaveOptions) (_ *SaveResult, err error) {
	began := time.Now()
	n, err := to.create(ctx, opts.Accelerator)
	if err != nil {
		return nil, err
	}
	defer func() { err = n.close(ctx, err) }()
	opts.Snapshot = to.Path
	saved, err := qemu.Save(ctx, n.writer, opts)
	if err != nil {
		return nil, err
	}
	if err := n.finish(ctx, saved.Meta); err != nil {
		return nil, err
	}
	return &SaveResult{
		Snapshot: to.Path, Total: time.Since(began), Paused: saved.Paused, Downtime: saved.Downtime, Rounds: saved.Rounds, Received: saved.Received,
		Bytes: n.manifest.Bytes(), Pages: n.manifest.Totals.Pages, Zero: n.manifest.Totals.Zero,
		RunState: saved.RunState, SavedRunState: saved.Meta.Machine.RunState,
	}, nil
}
