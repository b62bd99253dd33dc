package transcode

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/vmferry/vmferry/transport"
)

// Serve accepts the connections of the source's QEMU from ln, dials the destination's
// QEMU for each, in the order of their arrival, and carries them. It returns after ctx
// has ended or ln was closed, and all connections have ended. It closes ln. A connection
// that fails is logged.
func Serve(ctx context.Context, ln net.Listener, dial transport.Dialer, cfg Config) error {
	defer ln.Close()
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	var carrying sync.WaitGroup
	defer carrying.Wait()
	for {
		source, err := transport.AcceptNext(ctx, ln, func(err error) {
			cfg.Logger.Warn("accepting failed; retrying", "error", err)
		})
		if errors.Is(err, net.ErrClosed) || err != nil && ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		// The destination is dialed here, not in the goroutine: its connections have
		// to come in the order of the source's.
		link, err := dial.Link(ctx, cfg.DialTimeout)
		if err != nil {
			transport.Reset(source)
			cfg.Logger.Warn("a connection failed", "error", err)
			continue
		}
		carrying.Go(func() {
			if err := carry(ctx, source, link.Conn, cfg); err != nil {
				cfg.Logger.Warn("a connection failed", "error", err)
			}
		})
	}
}
