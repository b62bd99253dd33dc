package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/vmferry/vmferry/transport"
)

// ServeSource accepts connections of QEMUs from ln, and dials a link for each. It
// returns after ctx has ended, ln was closed or Drain was called, and all connections
// have ended. It closes ln.
func (r *Relay) ServeSource(ctx context.Context, ln net.Listener, dial transport.Dialer) error {
	return r.serve(ctx, ln, func(ctx context.Context, qemu net.Conn) func() error {
		// Admitted here, in the order in which QEMU connects.
		from, err := r.migrations.admit(qemu)
		if err != nil {
			transport.Reset(qemu)
			return func() error { return err }
		}
		return func() error {
			link, err := dial.Link(ctx, r.cfg.LinkTimeout)
			if err != nil {
				from.leave()
				transport.Reset(qemu)
				return fmt.Errorf("connecting to the other relay: %w", err)
			}
			return r.source(ctx, qemu, from, link.Conn)
		}
	})
}

// identifyWithin bounds the time from accepting a link to the end of its TLS handshake.
const identifyWithin = 10 * time.Second

// ServeDestination accepts links from ln, with TLS if cfg is not nil, and dials a QEMU
// for each. It returns as ServeSource does.
func (r *Relay) ServeDestination(ctx context.Context, ln net.Listener, cfg *tls.Config, dial transport.Dialer) error {
	return r.serve(ctx, ln, func(ctx context.Context, link net.Conn) func() error {
		return func() error {
			secure := link
			if cfg != nil {
				short, cancel := context.WithTimeout(ctx, identifyWithin)
				defer cancel()
				var err error
				if secure, err = transport.ServeTLS(short, link, cfg); err != nil {
					link.Close()
					return fmt.Errorf("link from %v: %w", link.RemoteAddr(), err)
				}
			}
			return r.Destination(ctx, secure, dial)
		}
	})
}

// serve accepts connections. It calls accepted for each in order; the function that
// accepted returns runs in a goroutine of its own.
func (r *Relay) serve(ctx context.Context, ln net.Listener, accepted func(context.Context, net.Conn) func() error) error {
	defer ln.Close()
	var carrying sync.WaitGroup
	defer carrying.Wait()
	ended := make(chan struct{})
	defer close(ended)
	carrying.Go(func() {
		select {
		case <-ctx.Done():
		case <-r.migrations.idle:
		case <-ended:
		}
		ln.Close()
	})
	for {
		conn, err := transport.AcceptNext(ctx, ln, func(err error) {
			r.cfg.Logger.Warn("accepting a connection failed, retrying", "error", err)
		})
		switch {
		case err == nil:
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		default:
			return fmt.Errorf("accepting connections: %w", err)
		}
		carry := accepted(ctx, conn)
		carrying.Go(func() {
			if err := carry(); err != nil && ctx.Err() == nil {
				r.cfg.Logger.Warn("a connection failed", "from", conn.RemoteAddr().String(), "error", err)
			}
		})
	}
}
