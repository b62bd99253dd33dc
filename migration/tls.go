package migration

import (
	"context"
	"crypto/tls"
	"net"
)

// serveTLS takes the part of the server on a connection.
//
// It hands out no session tickets. A source that never reads what comes back,
// such as a QEMU without a return path, would have them unread when it closes the
// connection, which makes that a reset: what is still on the way is lost then.
func serveTLS(ctx context.Context, conn net.Conn, cfg *tls.Config) (*tls.Conn, error) {
	t := tls.Server(conn, withoutTickets(cfg))
	return t, t.HandshakeContext(ctx)
}

func withoutTickets(cfg *tls.Config) *tls.Config {
	cfg = cfg.Clone()
	cfg.SessionTicketsDisabled = true
	if choose := cfg.GetConfigForClient; choose != nil {
		cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := choose(hello)
			if chosen != nil {
				chosen = withoutTickets(chosen)
			}
			return chosen, err
		}
	}
	return cfg
}
