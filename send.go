package vmferry

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/migration/stored"
	"github.com/vmferry/vmferry/transport"
)

// SendOptions say where a snapshot goes.
type SendOptions struct {
	// Connect is where the destination listens. TLS, if not nil, is used for every
	// connection: see transport.TLSFiles. Without TLS anyone on the way of a TCP
	// connection can read or replace the machine's memory; Send does not ask.
	Connect transport.Address
	TLS     *tls.Config
	// SendConfig says how the snapshot is sent. Its Wire has to be that of the
	// destination.
	stored.SendConfig
	// Progress, if not nil, is called about five times a second.
	Progress func(migration.Progress)
}

// SendResult describes a snapshot that was sent. Durations in its JSON are in
// nanoseconds.
type SendResult struct {
	// Confirmed says that the destination has loaded the machine, and not only that
	// everything was sent.
	Confirmed bool `json:"confirmed"`
	// DigestsVerified says that the digests of all pages matched the manifest.
	DigestsVerified bool          `json:"digests_verified"`
	Pages           uint64        `json:"pages"`
	Sent            uint64        `json:"sent_bytes"`
	Total           time.Duration `json:"total_ns"`
}

// Send sends a snapshot to a destination that another program set up, such as a QEMU
// with -incoming. Without opts.NoReturnPath it returns nil only when the destination has
// loaded the machine.
func Send(ctx context.Context, from Snapshot, opts SendOptions) (_ *SendResult, err error) {
	if opts.Wire, err = opts.Wire.WithDefaults(); err != nil {
		return nil, err
	}
	r, err := from.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	began, counters := time.Now(), opts.Counters
	stop := reportEvery(opts.Progress, func() migration.Progress {
		return migration.Progress{
			Task: migration.TaskSend, Sent: counters.Bytes.Load(), Normal: counters.Normal.Load(), TotalPages: r.Manifest().Totals.Pages, Elapsed: time.Since(began),
		}
	})
	defer stop()
	dial := func(ctx context.Context) (net.Conn, error) { return opts.Connect.Dial(ctx, opts.TLS) }
	if err := stored.Send(ctx, dial, r.Reader, opts.SendConfig); err != nil {
		return nil, err
	}
	return &SendResult{
		Confirmed: !opts.NoReturnPath, DigestsVerified: r.DigestsVerified(), Pages: counters.Normal.Load(), Sent: counters.Bytes.Load(), Total: time.Since(began),
	}, nil
}
