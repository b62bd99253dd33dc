package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qmp"
)

var (
	// ErrUnable is wrapped when this QEMU cannot do what is asked.
	ErrUnable = errors.New("this QEMU cannot do that")
	// ErrState is wrapped when the machine is not in a state to be saved or
	// restored.
	ErrState = errors.New("the machine is not in a state for that")
	// ErrGone is wrapped when QEMU went away.
	ErrGone = errors.New("QEMU went away")
)

// unlimited is a bandwidth that no machine reaches, in bytes a second.
const unlimited = 1 << 40

// hostileCapabilities change the stream into one that cannot be carried, or
// wait for somebody who is not there.
var hostileCapabilities = []string{
	"postcopy-preempt", // refused without the next
	"postcopy-ram", "xbzrle", "compress", "x-colo", "x-ignore-shared", "mapped-ram", "dirty-bitmaps", "block",
	"background-snapshot", "switchover-ack", "pause-before-switchover", "zero-copy-send", "rdma-pin-all", "release-ram",
}

// settings are capabilities and parameters that are changed, as they were before.
type settings struct {
	Capabilities map[string]bool       `json:"capabilities,omitempty"`
	Parameters   qmp.MigrateParameters `json:"parameters"`
}

// restore puts everything back.
func (s *settings) restore(ctx context.Context, vm *qmp.Machine) error {
	return errors.Join(vm.SetMigrateParameters(ctx, s.Parameters), vm.SetMigrateCapabilities(ctx, s.Capabilities))
}

// wish is what a migration wants of QEMU's parameters.
type wish struct {
	channels int
	method   multifd.Method
	level    int
	// returnPath lets a source wait for the destination's word at the end.
	returnPath bool
	// bandwidth and downtime are the source's, 0 at a destination.
	bandwidth uint64
	downtime  time.Duration
}

// plan is what is to be changed of a QEMU's settings.
type plan struct {
	want   wish
	caps   map[string]bool
	params qmp.MigrateParameters
	// before is what is to be put back. It is known before anything is
	// changed, so that a guard can be told.
	before settings
}

// makePlan checks what this QEMU can do, and changes nothing.
func makePlan(ctx context.Context, vm *qmp.Machine, want wish) (*plan, error) {
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
		return nil, fmt.Errorf("%w: QEMU %v knows no multifd-channels or multifd-compression", ErrUnable, vm.Version())
	}
	p := &plan{want: want, caps: map[string]bool{}, before: settings{Capabilities: map[string]bool{}}}
	change := func(name string, to bool) {
		if is, ok := caps[name]; ok && is != to {
			p.caps[name], p.before.Capabilities[name] = to, is
		}
	}
	for _, name := range hostileCapabilities {
		change(name, false)
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
			set.ZeroPageDetection, before.ZeroPageDetection = new(zeroDetection(v, want.method)), is.ZeroPageDetection
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

// apply changes the settings. After an error, too, before is to be put back.
func (p *plan) apply(ctx context.Context, vm *qmp.Machine) error {
	name := p.want.method.Name()
	if err := vm.SetMigrateCapabilities(ctx, p.caps); err != nil {
		return fmt.Errorf("setting migration capabilities: %w", err)
	}
	if err := vm.SetMigrateParameters(ctx, p.params); err != nil {
		if refused := (*qmp.Error)(nil); errors.As(err, &refused) && p.want.method != multifd.None {
			return fmt.Errorf("%w: setting %d channels with %s: %w (was this QEMU built with %s? Debian's have none, zlib and zstd)", ErrUnable, p.want.channels, name, err, name)
		}
		return fmt.Errorf("setting migration parameters: %w", err)
	}
	// What QEMU now says is what counts: with another number of channels or
	// another method a destination hangs, or runs with memory missing.
	got, err := vm.QueryMigrateParameters(ctx)
	if err != nil {
		return err
	}
	if got.MultifdChannels == nil || *got.MultifdChannels != p.want.channels || got.MultifdCompression == nil || *got.MultifdCompression != name {
		return fmt.Errorf("%w: it was told %d channels with %s, and says otherwise when asked", ErrUnable, p.want.channels, name)
	}
	return nil
}

// zeroDetection picks where zero pages are found and told. In the packets is
// best; but QEMU 9.0 to 9.1.2 and 9.2.0 with compression never send a packet
// that has zero pages only.
func zeroDetection(v qmp.Version, m multifd.Method) string {
	number := v.Major*10000 + v.Minor*100 + v.Micro
	if m != multifd.None && (number < 90103 || number == 90200) {
		return "legacy"
	}
	return "multifd"
}

// answerTimeout is for how long QEMU may leave a command without an answer, by the
// setting of StallTimeout: 0 for ever.
func answerTimeout(stall time.Duration) time.Duration {
	switch {
	case stall == 0:
		return 2 * time.Minute
	case stall < 0:
		return 0
	}
	return stall
}

// detached gives a short time for putting things right that ctx's end, the
// very reason, does not cut off.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
}
