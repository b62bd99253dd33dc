package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qmp"
)

var (
	// ErrUnable is wrapped if this QEMU cannot do what the caller asks for.
	ErrUnable = errors.New("this QEMU cannot do that")
	// ErrState is wrapped if the machine cannot be saved or restored in its state.
	ErrState = errors.New("the machine is not in a state for that")
	// ErrGone is wrapped if QEMU has ended.
	ErrGone = errors.New("QEMU went away")
)

// unlimited is a bandwidth that no machine reaches, in bytes a second.
const unlimited = 1 << 40

// incompatibleCapabilities make a stream that this package does not read, or make QEMU
// wait for a peer that does not exist.
var incompatibleCapabilities = []string{
	"postcopy-preempt", // refused without the next
	"postcopy-ram", "xbzrle", "compress", "x-colo", "x-ignore-shared", "mapped-ram", "dirty-bitmaps", "block",
	"background-snapshot", "switchover-ack", "pause-before-switchover", "zero-copy-send", "rdma-pin-all", "release-ram",
}

// settings are the earlier values of capabilities and parameters that are changed.
type settings struct {
	Capabilities map[string]bool       `json:"capabilities,omitempty"`
	Parameters   qmp.MigrateParameters `json:"parameters"`
}

// restore sets the earlier values again.
func (s *settings) restore(ctx context.Context, vm *qmp.Machine) error {
	return errors.Join(vm.SetMigrateParameters(ctx, s.Parameters), vm.SetMigrateCapabilities(ctx, s.Capabilities))
}

// migrationSettings are the settings that a migration needs at QEMU.
type migrationSettings struct {
	channels int
	method   multifd.Method
	level    int
	// returnPath lets a source wait for the destination's result at the end.
	returnPath bool
	// capabilities are further ones that are turned on if this QEMU has them.
	capabilities []string
	// bandwidth and downtime are the source's, 0 at a destination.
	bandwidth uint64
	downtime  time.Duration
	// zeroLegacy has zero pages reported on the main channel, as a destination before
	// 9.0 needs it.
	zeroLegacy bool
}

// plan is a change of a QEMU's settings.
type plan struct {
	want   migrationSettings
	caps   map[string]bool
	params qmp.MigrateParameters
	// before holds the values to restore. It is known before the first change, so
	// that a guard can have it.
	before settings
}

// makePlan checks that this QEMU has the settings, and changes nothing.
func makePlan(ctx context.Context, vm *qmp.Machine, want migrationSettings) (*plan, error) {
	caps, err := vm.QueryMigrateCapabilities(ctx)
	if err != nil {
		return nil, err
	}
	if _, ok := caps["multifd"]; !ok {
		return nil, fmt.Errorf("%w: QEMU %v has no multifd (it came with 4.0)", ErrUnable, vm.Version())
	}
	params, err := vm.QueryMigrateParameters(ctx)
	if err != nil {
		return nil, err
	}
	if params.MultifdChannels == nil || params.MultifdCompression == nil {
		return nil, fmt.Errorf("%w: QEMU %v has no multifd-channels or multifd-compression", ErrUnable, vm.Version())
	}
	p := &plan{want: want, caps: map[string]bool{}, before: settings{Capabilities: map[string]bool{}}}
	change := func(name string, to bool) {
		if is, ok := caps[name]; ok && is != to {
			p.caps[name], p.before.Capabilities[name] = to, is
		}
	}
	for _, name := range incompatibleCapabilities {
		change(name, slices.Contains(want.capabilities, name))
	}
	for _, name := range want.capabilities {
		change(name, true)
	}
	change("multifd", true)
	change("events", true)
	change("return-path", want.returnPath)
	p.planParameters(params, vm.Version())
	return p, nil
}

func (p *plan) planParameters(is qmp.MigrateParameters, v qmp.Version) {
	want, set, before := p.want, &p.params, &p.before.Parameters
	set.MultifdChannels, before.MultifdChannels = &want.channels, is.MultifdChannels
	set.MultifdCompression, before.MultifdCompression = new(want.method.Name()), is.MultifdCompression
	if is.TLSCreds != nil && *is.TLSCreds != "" {
		set.TLSCreds, before.TLSCreds = new(""), is.TLSCreds
	}
	if want.bandwidth > 0 {
		set.MaxBandwidth, before.MaxBandwidth = &want.bandwidth, is.MaxBandwidth
		set.DowntimeLimit, before.DowntimeLimit = new(qmp.Milliseconds(want.downtime.Milliseconds())), is.DowntimeLimit
		if is.ZeroPageDetection != nil {
			set.ZeroPageDetection, before.ZeroPageDetection = new(zeroDetection(v, want)), is.ZeroPageDetection
		}
	}
	if want.level > 0 {
		switch want.method {
		case multifd.Zlib:
			set.MultifdZlibLevel, before.MultifdZlibLevel = &want.level, is.MultifdZlibLevel
		case multifd.Zstd:
			set.MultifdZstdLevel, before.MultifdZstdLevel = &want.level, is.MultifdZstdLevel
		case multifd.QATzip:
			set.MultifdQatzipLevel, before.MultifdQatzipLevel = &want.level, is.MultifdQatzipLevel
		}
	}
}

// apply changes the settings. The caller restores p.before, also after an error.
func (p *plan) apply(ctx context.Context, vm *qmp.Machine) error {
	name := p.want.method.Name()
	if err := vm.SetMigrateCapabilities(ctx, p.caps); err != nil {
		return fmt.Errorf("setting migration capabilities: %w", err)
	}
	if err := vm.SetMigrateParameters(ctx, p.params); err != nil {
		if refusedByQEMU(err) && p.want.method != multifd.None {
			return fmt.Errorf("%w: setting %d channels with %s: %w (was this QEMU built with %s? Debian's have none, zlib and zstd)", ErrUnable, p.want.channels, name, err, name)
		}
		return fmt.Errorf("setting migration parameters: %w", err)
	}
	// QEMU's values count: with another number of channels or another method a
	// destination hangs, or runs without a part of the memory.
	got, err := vm.QueryMigrateParameters(ctx)
	if err != nil {
		return err
	}
	if got.MultifdChannels == nil || *got.MultifdChannels != p.want.channels || got.MultifdCompression == nil || *got.MultifdCompression != name {
		return fmt.Errorf("%w: QEMU accepted %d channels with %s, and reports other settings", ErrUnable, p.want.channels, name)
	}
	return nil
}

// zeroDetection chooses where QEMU finds and reports zero pages. The multifd packets
// are best; but QEMU 9.0 to 9.1.2 and 9.2.0 with compression never send a packet that
// has zero pages only.
func zeroDetection(v qmp.Version, want migrationSettings) string {
	number := v.Major*10000 + v.Minor*100 + v.Micro
	if want.zeroLegacy || want.method != multifd.None && (number < 90103 || number == 90200) {
		return "legacy"
	}
	return "multifd"
}

// answerTimeout is how long QEMU may take to answer a command, for a StallTimeout; 0
// is no bound.
func answerTimeout(stall time.Duration) time.Duration {
	switch {
	case stall == 0:
		return 2 * time.Minute
	case stall < 0:
		return 0
	}
	return stall
}

// detached returns a context of 15 s for the cleanup after ctx has ended.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
}
