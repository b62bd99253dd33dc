package vmferry

import (
	"context"
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/migration/stored"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// ReceiveOptions say where a migration comes from.
type ReceiveOptions struct {
	// Listen is where this side listens. TLS, if not nil, is required of every
	// connection: see transport.TLSFiles. Without TLS anyone who can connect over TCP
	// can read or replace the machine's memory; Receive does not ask.
	Listen transport.Address
	TLS    *tls.Config
	// Wire has to be that of the source.
	migration.Wire
	// ConnectTimeout bounds the wait for the source's connections; 0 waits forever.
	ConnectTimeout time.Duration
	// MaxMemory is the most memory that the source's machine may have, in bytes; 0 is
	// vmstate.DefaultMaxMemory.
	MaxMemory uint64
	// SwitchoverAck sends SWITCHOVER_ACK: for a source with that capability.
	SwitchoverAck bool
	// NoDescription accepts a source that sends no description of its devices: see
	// vmstate.DestinationOptions.
	NoDescription bool
	// Progress, if not nil, is called about five times a second.
	Progress func(migration.Progress)
	// Logger, if not nil, gets warnings.
	Logger *slog.Logger
}

// ReceiveResult describes a migration that is in a snapshot. Durations in its JSON are in
// nanoseconds.
type ReceiveResult struct {
	Pages    uint64        `json:"pages"`
	Received uint64        `json:"received_bytes"`
	Snapshot string        `json:"snapshot"`
	Bytes    int64         `json:"snapshot_bytes"`
	Total    time.Duration `json:"total_ns"`
	Zero     uint64        `json:"zero_pages"`
}

// Receive takes one migration that another program drives, into a new snapshot. A source
// with a return path learns that the migration succeeded when the snapshot is complete
// and durable. A migration that fails leaves no snapshot.
func Receive(ctx context.Context, to Snapshot, opts ReceiveOptions) (_ *ReceiveResult, err error) {
	if opts.Wire, err = opts.Wire.WithDefaults(); err != nil {
		return nil, err
	}
	n, err := to.create(ctx, opts.Accelerator)
	if err != nil {
		return nil, err
	}
	defer func() { err = n.close(ctx, err) }()
	ln, err := opts.Listen.Listen(ctx)
	if err != nil {
		return nil, err
	}
	began, counters := time.Now(), opts.Counters
	stop := reportEvery(opts.Progress, func() migration.Progress {
		return migration.Progress{
			Task: migration.TaskReceive, Received: counters.Bytes.Load(), Stored: n.writer.Bytes(),
			Normal: counters.Normal.Load(), Zero: counters.Zero.Load(), Elapsed: time.Since(began),
		}
	})
	defer stop()
	_, err = migration.Receive(ctx, ln, migration.ReceiveConfig{
		Wire: opts.Wire, Sink: n.writer, TLS: opts.TLS, ConnectTimeout: opts.ConnectTimeout, MaxMemory: opts.MaxMemory, Logger: opts.Logger,
		Main: vmstate.DestinationOptions{SwitchoverAck: opts.SwitchoverAck, NoDescription: opts.NoDescription},
		// A source with a return path gives its machine up only when it learns
		// that the snapshot is complete.
		Commit: func(r *migration.Received) error { return n.finish(ctx, stored.Meta(r)) },
	})
	if err != nil {
		return nil, err
	}
	return &ReceiveResult{
		Snapshot: to.Path, Pages: n.manifest.Totals.Pages, Zero: n.manifest.Totals.Zero, Bytes: n.manifest.Bytes(),
		Received: counters.Bytes.Load(), Total: time.Since(began),
	}, nil
}
