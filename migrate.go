package vmferry

import (
	"context"

	"github.com/vmferry/vmferry/qemu"
)

// MigrateResult describes a migration to another QEMU.
type MigrateResult = qemu.MigrateResult

// AcceptResult describes a machine that another QEMU's migration brought.
type AcceptResult = qemu.AcceptResult

// Migrate moves a machine to another QEMU while the machine runs: on another host, where
// Accept waits for it, or on this one. When Migrate returns nil, the machine is the
// destination's. When it fails, the machine is at the source in its state, and the error
// says so, unless the error wraps qemu.ErrUndecided or qemu.ErrGone.
//
// With opts.DryRun, Migrate compares the two sides and changes nothing.
func Migrate(ctx context.Context, opts qemu.MigrateOptions) (*MigrateResult, error) {
	return qemu.Migrate(ctx, opts)
}

// Accept takes over one machine that Migrate sends, into a QEMU that was started like the
// source's, with "-incoming defer". When Accept fails, the machine does not run here,
// unless the error wraps qemu.ErrUndecided.
func Accept(ctx context.Context, opts qemu.AcceptOptions) (*AcceptResult, error) {
	return qemu.Accept(ctx, opts)
}
