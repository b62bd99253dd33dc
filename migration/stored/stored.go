package stored

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// Meta returns what a snapshot keeps of a migration besides its pages.
func Meta(r *migration.Received) snapshot.Meta {
	m := snapshot.Meta{
		Head: r.Head, Devices: r.Devices, States: r.States,
		Machine: snapshot.Machine{
			Type: r.Config.Machine, PageSize: r.Config.PageSize(), Sync: r.SyncMode,
			RunState: vmstate.RunState(r.Devices),
		},
	}
	if r.UUID != ([16]byte{}) {
		m.Machine.UUID = hex.EncodeToString(r.UUID[:])
	}
	return m
}

// SendConfig configures Send. The zero value is ready for use.
type SendConfig struct {
	migration.Wire
	// AllZero sends every zero page, for a destination whose memory is not zero,
	// such as a file that was used before. Otherwise Send sends the zero pages of
	// RAM blocks up to 32 MiB only, such as ROMs, because the main memory of a new
	// machine is zero.
	AllZero bool
	// UUID, if not nil, is the UUID of the destination's machine, which the channels
	// send; otherwise they send the snapshot's.
	UUID *[16]byte
	// NoReturnPath does not open the return path, so Send does not learn the
	// destination's result.
	NoReturnPath bool
	// Bandwidth limits the bytes per second of all channels together; 0 is no
	// limit.
	Bandwidth uint64
	// ConnectTimeout is how long Send retries while no process listens at the
	// destination; 0 tries once.
	ConnectTimeout time.Duration
}

// smallBlock is the largest size in bytes of a RAM block whose zero pages are always
// sent.
const smallBlock = 32 << 20

// Send sends a snapshot's machine to a destination. Without NoReturnPath it returns nil
// only after the destination has reported that it loaded the machine. Errors wrap those
// of packages snapshot and migration, or the cause of ctx.
func Send(ctx context.Context, dial transport.Dialer, r *snapshot.Reader, cfg SendConfig) error {
	m := r.Manifest()
	head, err := r.Head(ctx)
	if err != nil {
		return err
	}
	devices, err := r.Devices(ctx)
	if err != nil {
		return err
	}
	states, err := r.States(ctx)
	if err != nil {
		return err
	}
	if len(states) > 0 && cfg.Method != nil && cfg.Method != multifd.None {
		return fmt.Errorf("sending a snapshot with device-state packets: QEMU accepts them only without compression (use --compression none)")
	}
	var uuid [16]byte
	if cfg.UUID != nil {
		uuid = *cfg.UUID
	} else if m.Machine.UUID != "" {
		if n, err := hex.Decode(uuid[:], []byte(m.Machine.UUID)); err != nil || n != len(uuid) {
			return fmt.Errorf("%w: uuid %q in the manifest", snapshot.ErrCorrupt, m.Machine.UUID)
		}
	}
	s, err := migration.Connect(ctx, dial, migration.SendConfig{
		Wire: cfg.Wire, Head: head, Layout: r.Layout(), SyncMode: m.Machine.Sync, UUID: uuid,
		ReturnPath: !cfg.NoReturnPath, Bandwidth: cfg.Bandwidth, ConnectTimeout: cfg.ConnectTimeout,
	})
	if err != nil {
		return err
	}
	defer s.Close()
	zero := func(b *guest.Block) bool { return cfg.AllZero || b.Length <= smallBlock }
	if err := s.Round(ctx, r.Source(snapshot.SourceOptions{Zero: zero})); err != nil {
		return err
	}
	for _, d := range states {
		if err := s.DeviceState(ctx, d); err != nil {
			return err
		}
	}
	return s.Finish(ctx, vmstate.WithDescription(devices))
}
