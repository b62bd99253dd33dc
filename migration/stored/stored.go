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

// Meta is what a snapshot keeps of a migration besides its pages.
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

// SendConfig says how a snapshot is sent.
type SendConfig struct {
	migration.Wire
	// AllZero sends a record of every zero page: for a destination whose
	// memory holds something, such as a file that was used before. Otherwise
	// zero pages are sent of small blocks only, such as ROMs; main memory is
	// zero when a machine is made.
	AllZero bool
	// UUID, if not nil, is the destination's, which its channels want to
	// hear; otherwise the snapshot's is sent.
	UUID *[16]byte
	// NoReturnPath does not ask the destination how it went.
	NoReturnPath bool
	// Bandwidth bounds the bytes a second of all channels together; 0 is no
	// bound.
	Bandwidth uint64
	// ConnectTimeout is that of migration.SendConfig.
	ConnectTimeout time.Duration
}

// smallBlock is up to which size a block's zero pages are always sent.
const smallBlock = 32 << 20

// Send starts a snapshot's machine at a destination. Without
// NoReturnPath it returns nil only once the destination has said that it
// loaded the machine.
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
		return fmt.Errorf("the snapshot has device-state packets of multifd channels, which QEMU takes without compression only: use --compression none")
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
