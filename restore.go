package vmferry

import (
	"context"
	"errors"

	"github.com/vmferry/vmferry/qemu"
)

// RestoreResult describes a restore that succeeded.
type RestoreResult = qemu.RestoreResult

// Restore starts a snapshot's machine in a QEMU that was started like the one that was
// saved, with "-incoming defer". The machine runs if it ran when it was saved, unless
// opts.Paused is set. When Restore fails, its error says in which state the QEMU is.
func Restore(ctx context.Context, from Snapshot, opts qemu.RestoreOptions) (_ *RestoreResult, err error) {
	r, err := from.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return qemu.Restore(ctx, r.Reader, opts)
}
