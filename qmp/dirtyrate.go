package qmp

import (
	"context"
	"time"
)

// DirtyRateMode is how QEMU measures the rate at which a machine writes to its memory.
type DirtyRateMode string

const (
	// PageSampling compares the hashes of some pages before and after. It costs the
	// machine nothing. A page that was written with the content that it had is not
	// counted.
	PageSampling DirtyRateMode = "page-sampling"
	// DirtyBitmap tracks every page, which slows the machine's writes down. It needs
	// KVM: a QEMU 7.2 without KVM aborts.
	DirtyBitmap DirtyRateMode = "dirty-bitmap"
	// DirtyRing counts the entries of KVM's dirty ring, which QEMU must have been
	// started with.
	DirtyRing DirtyRateMode = "dirty-ring"
)

// DirtyRateRequest says how calc-dirty-rate measures.
type DirtyRateRequest struct {
	// Time is how long QEMU measures. QEMUs before 8.2 round down to seconds and
	// want 1 to 60 s.
	Time time.Duration
	// Mode is PageSampling if empty.
	Mode DirtyRateMode
	// SamplePages is the number of pages of each GiB that PageSampling hashes, 128 to
	// 16384; 0 is QEMU's default.
	SamplePages int
}

// CalcDirtyRate starts a measurement and returns at once; QueryDirtyRate returns its
// result. QEMU refuses a second measurement at the same time.
func (vm *Machine) CalcDirtyRate(ctx context.Context, r DirtyRateRequest) error {
	args := struct {
		Time        int64         `json:"calc-time"`
		Unit        string        `json:"calc-time-unit,omitempty"`
		Mode        DirtyRateMode `json:"mode,omitempty"`
		SamplePages int           `json:"sample-pages,omitempty"`
	}{Time: int64(r.Time / time.Second), Mode: r.Mode, SamplePages: r.SamplePages}
	if vm.MeasuresMilliseconds() {
		args.Time, args.Unit = r.Time.Milliseconds(), "millisecond"
	}
	return vm.Execute(ctx, "calc-dirty-rate", args, nil)
}

// MeasuresMilliseconds tells whether this QEMU measures a dirty rate over less than a
// second.
func (vm *Machine) MeasuresMilliseconds() bool { return vm.Version().AtLeast(8, 2) }

// States of a measurement of the dirty rate. For a moment after CalcDirtyRate the state is
// still "unstarted".
const (
	DirtyRateUnstarted = "unstarted"
	DirtyRateMeasuring = "measuring"
	DirtyRateMeasured  = "measured"
)

// DirtyRate is the state of the current or the last measurement of the dirty rate.
type DirtyRate struct {
	Status string `json:"status"`
	// Rate is nil before the end of the measurement. Its unit is MiB a second, rounded
	// down. Its value is that of the different pages that were written, divided by the
	// time: a page that was written twice counts once.
	Rate        *int64        `json:"dirty-rate"`
	Mode        DirtyRateMode `json:"mode"`
	SamplePages int           `json:"sample-pages"`
}

// QueryDirtyRate returns the state of the measurement.
func (vm *Machine) QueryDirtyRate(ctx context.Context) (DirtyRate, error) {
	var r DirtyRate
	err := vm.Execute(ctx, "query-dirty-rate", nil, &r)
	return r, err
}
