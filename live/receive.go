package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/vmstate"
)

// ReceiveConfig says what is expected, where it goes, and how its machine starts.
type ReceiveConfig struct {
	migration.ReceiveConfig
	// Start starts the machine, after Commit. It is called once, when the source
	// will not run any more unless this side says that it failed; an error says so.
	Start func(*migration.Received) error
	// SourceLost is asked when the source has vanished without a word after
	// everything had arrived, before it let this side run. The source may be dead,
	// and its machine with it; or it may run, behind a link that broke. Return true
	// only if the source is known to be dead (fenced): the machine starts here. Nil
	// never starts.
	SourceLost func(cause error) bool
	// Answer is how long this side answers a source that lost its connections in
	// the last moment; 0 is ten minutes. It has to be longer than the source's
	// Inquiry and LinkTimeout together. Receive returns after that at the latest,
	// or at once where the source saw the machine run.
	Answer time.Duration
}

// Receive takes one migration from a listener, which it closes, and starts its
// machine. A source that asks for a handover (Migrate) gives its machine up only when
// it knows that the machine runs here. The machine of another source, such as a QEMU,
// starts when everything has arrived.
func Receive(ctx context.Context, ln net.Listener, cfg ReceiveConfig) (*migration.Received, error) {
	if cfg.Start == nil {
		ln.Close()
		return nil, errors.New("receiving a machine to run: Start has to be set")
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	commit := cfg.Commit
	base := cfg.ReceiveConfig
	base.Commit = func(r *migration.Received) error {
		if commit != nil {
			if err := commit(r); err != nil {
				return err
			}
		}
		switch {
		case r.HasPing(vmstate.HandoverStay):
			return fmt.Errorf("%w: its machine stays there, and this side was to start it", ErrSourceGone)
		case r.HasPing(vmstate.HandoverRequest):
			return nil
		}
		return cfg.Start(r)
	}
	base.Handover = func(in *migration.Inbound) error { return (&handover{cfg: &cfg, in: in, log: log}).run() }
	return migration.Receive(ctx, ln, base)
}
