package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	"postcopy-ram", "xbzrle", "compress", "x-colo", "x-ignore-shared", "mapped-ram", "dirty-bitmaps", "block",
	"background-snapshot", "return-path", "switchover-ack", "pause-before-switchover", "zero-copy-send", "rdma-pin-all", "release-ram",
}

// settings are the capabilities and parameters that were changed, as they were
// before.
type settings struct {
	Capabilities map[string]bool       `json:"capabilities,omitempty"`
	Parameters   qmp.MigrateParameters `json:"parameters"`
}

// restore puts everything back.
func (s *settings) restore(ctx context.Context, c *qmp.Client) error {
	return errors.Join(c.SetMigrateParameters(ctx, s.Parameters), c.SetMigrateCapabilities(ctx, s.Capabilities))
}

// wish is what a migration wants of QEMU's parameters.
type wish struct {
	channels int
	method   multifd.Method
	level    int
	// bandwidth and downtime are the source's, 0 at a destination.
	bandwidth uint64
	downtime  time.Duration
}

// prepare checks what this QEMU can do and sets it up. It returns what is to
// be put back, also beside an error.
func prepare(ctx context.Context, c *qmp.Client, want wish) (*settings, error) {
	before := &settings{Capabilities: map[string]bool{}}
	caps, err := c.QueryMigrateCapabilities(ctx)
	if err != nil {
		return before, err
	}
	if _, ok := caps["multifd"]; !ok {
		return before, fmt.Errorf("%w: QEMU %v has no multifd (it came with 4.0)", ErrUnable, c.Version())
	}
	params, err := c.QueryMigrateParameters(ctx)
	if err != nil {
		return before, err
	}
	if params.MultifdChannels == nil || params.MultifdCompression == nil {
		return before, fmt.Errorf("%w: QEMU %v knows no multifd-channels or multifd-compression", ErrUnable, c.Version())
	}
	set := map[string]bool{}
	change := func(name string, to bool) {
		if is, ok := caps[name]; ok && is != to {
			set[name], before.Capabilities[name] = to, is
		}
	}
	for _, name := range hostileCapabilities {
		change(name, false)
	}
	change("multifd", true)
	change("events", true)
	if err := c.SetMigrateCapabilities(ctx, set); err != nil {
		before.Capabilities = nil // QEMU sets all or none
		return before, fmt.Errorf("setting migration capabilities: %w", err)
	}
	return before, setParameters(ctx, c, want, params, before)
}

func setParameters(ctx context.Context, c *qmp.Client, want wish, is qmp.MigrateParameters, before *settings) error {
	name := want.method.Name()
	set := qmp.MigrateParameters{MultifdChannels: &want.channels, MultifdCompression: &name}
	before.Parameters = qmp.MigrateParameters{MultifdChannels: is.MultifdChannels, MultifdCompression: is.MultifdCompression}
	if is.TLSCreds != nil && *is.TLSCreds != "" {
		set.TLSCreds, before.Parameters.TLSCreds = new(""), is.TLSCreds
	}
	if want.bandwidth > 0 {
		ms := qmp.Milliseconds(want.downtime.Milliseconds())
		set.MaxBandwidth, before.Parameters.MaxBandwidth = &want.bandwidth, is.MaxBandwidth
		set.DowntimeLimit, before.Parameters.DowntimeLimit = &ms, is.DowntimeLimit
		if is.ZeroPageDetection != nil {
			set.ZeroPageDetection, before.Parameters.ZeroPageDetection = new(zeroDetection(c.Version(), want.method)), is.ZeroPageDetection
		}
	}
	if want.level > 0 {
		switch want.method {
		case multifd.Zlib:
			set.MultifdZlibLevel, before.Parameters.MultifdZlibLevel = &want.level, is.MultifdZlibLevel
		case multifd.Zstd:
			set.MultifdZstdLevel, before.Parameters.MultifdZstdLevel = &want.level, is.MultifdZstdLevel
		}
	}
	if err := c.SetMigrateParameters(ctx, set); err != nil {
		before.Parameters = qmp.MigrateParameters{}
		if refused := (*qmp.Error)(nil); errors.As(err, &refused) && want.method != multifd.None {
			return fmt.Errorf("%w: setting %d channels with %s: %w (was this QEMU built with %s? Debian's have none, zlib and zstd)", ErrUnable, want.channels, name, err, name)
		}
		return fmt.Errorf("setting migration parameters: %w", err)
	}
	// What QEMU now says is what counts: with another number of channels or
	// another method a destination hangs, or runs with memory missing.
	got, err := c.QueryMigrateParameters(ctx)
	if err != nil {
		return err
	}
	if got.MultifdChannels == nil || *got.MultifdChannels != want.channels || got.MultifdCompression == nil || *got.MultifdCompression != name {
		return fmt.Errorf("%w: it was told %d channels with %s, and says otherwise when asked", ErrUnable, want.channels, name)
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

// private makes a directory that only QEMU's user and this one can look into,
// for the socket between the two.
func private(c *qmp.Client, parent string) (string, error) {
	dir, err := os.MkdirTemp(parent, "vmferry-")
	if err != nil {
		return "", fmt.Errorf("making a directory for the socket: %w", err)
	}
	// Some sandboxes have other users; the socket then works if QEMU may
	// open it all the same, and QEMU says so if not.
	if cred, err := c.PeerCred(); err == nil && os.Geteuid() == 0 && cred.UID > 0 {
		if err := os.Chown(dir, cred.UID, cred.GID); err != nil {
			os.Remove(dir)
			return "", fmt.Errorf("giving the socket's directory to QEMU's user %d: %w", cred.UID, err)
		}
	}
	return dir, nil
}

// own gives a file in a private directory to QEMU's user.
func own(c *qmp.Client, path string) error {
	cred, err := c.PeerCred()
	if err != nil || os.Geteuid() != 0 || cred.UID <= 0 {
		return nil
	}
	return os.Chown(path, cred.UID, cred.GID)
}

func socketIn(dir string) string { return filepath.Join(dir, "s") }

// detached gives a short time for putting things right that ctx's end, the
// very reason, does not cut off.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
}

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only types of this package
	}
	return b
}
