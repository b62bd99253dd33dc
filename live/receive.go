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

// ReceiveConfig configures Receive. Sink and Start are required. ReceiveConfig.Handover
// is ignored.
type ReceiveConfig struct {
	migration.ReceiveConfig
	// Start starts the machine, after Commit. It is called at most once, when the
	// source no longer runs the machine. Its error is reported to the source, which
	// then resumes the machine.
	Start func(*migration.Received) error
	// SourceLost is called when the source disconnects after everything has arrived
	// and before it sends HandoverRun. The source may be dead, or it may run the
	// machine behind a broken link. SourceLost must return true only if the source
	// is known to be dead (fenced): Receive then starts the machine. Nil never
	// starts it.
	SourceLost func(cause error) bool
	// Answer is how long, after Start, Receive answers inquiries of a source that
	// lost its connections; 0 is 10 minutes. It must be longer than the source's
	// Inquiry and LinkTimeout together. Receive returns earlier if the source has
	// learned that the machine runs.
	Answer time.Duration
}

// Receive receives one migration on ln, closes ln, and starts the machine. The machine
// of a source that requests a handover (Migrate) is started after HandoverRun, that of
// another source, such as a QEMU, when everything has arrived. After a nil error the
// machine runs here. Errors are those of migration.Receive, the error of Start, or wrap
// ErrSourceGone.
func Receive(ctx context.Context, ln net.Listener, cfg ReceiveConfig) (*migration.Received, error) {
	if cfg.Start == nil {
		ln.Close()
		return nil, errors.New("live: receiving needs ReceiveConfig.Start")
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
			return fmt.Errorf("%w: the machine stays at the source, and this side would start it (use migration.Receive to store it)", ErrSourceGone)
		case r.HasPing(vmstate.HandoverRequest):
			return nil
		}
		return cfg.Start(r)
	}
	base.Handover = func(in *migration.Inbound) error { return (&handover{cfg: &cfg, in: in, log: log}).run() }
	return migration.Receive(ctx, ln, base)
}
