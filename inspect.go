package vmferry

import (
	"context"
	"errors"

	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/vmstate"
)

// Inspection is what a snapshot says of itself.
type Inspection struct {
	*snapshot.Manifest
	// Devices are those that the stream describes, in the order of their sections.
	// Described says that the stream has a description. The empty one that Send adds
	// to a stream without one (vmstate.WithDescription) does not count.
	Devices   []vmstate.DeviceDescription `json:"devices"`
	Described bool                        `json:"-"`
	// Bytes is the size of the snapshot.
	Bytes int64 `json:"bytes"`
}

// Inspect reads what is in a snapshot, without its pages.
func Inspect(ctx context.Context, s Snapshot) (_ *Inspection, err error) {
	r, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	devices, err := r.Devices(ctx)
	if err != nil {
		return nil, err
	}
	description, described := vmstate.FindEnd(devices)
	return &Inspection{r.Manifest(), description.Devices, described && description.PageSize != 0, r.Manifest().Bytes()}, nil
}

// VerifyResult describes a snapshot that is sound.
type VerifyResult = snapshot.Verified

// Verify reads everything in a snapshot and checks it. progress, if not nil, is called as
// it goes.
func Verify(ctx context.Context, s Snapshot, progress func(migration.Progress)) (_ *VerifyResult, err error) {
	r, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	total := uint64(r.Manifest().Bytes())
	v, err := r.Verify(ctx, func(n int64) {
		if progress != nil {
			progress(migration.Progress{Task: migration.TaskVerify, Bytes: n, TotalBytes: total})
		}
	})
	if err != nil {
		return nil, err
	}
	return &v, nil
}
