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
	cfg = cfg.Clone()
	cfg.SessionTicketsDisabled = true
	t := tls.Server(conn, cfg)
	return t, t.HandshakeContext(ctx)
}
