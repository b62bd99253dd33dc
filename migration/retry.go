package migration

import (
	"context"
	"fmt"
	"net"
	"time"
)

// openFirst makes the first connection. While nobody listens there, because the
// destination was started a moment later, it tries again until ConnectTimeout.
func (s *Sender) openFirst(ctx context.Context, dial Dialer) (net.Conn, error) {
	most, began := s.cfg.ConnectTimeout, time.Now()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		conn, err := s.open(ctx, dial)
		if err == nil || most <= 0 || !provesDeath(err) {
			return conn, err
		}
		left := most - time.Since(began)
		if left <= 0 {
			return nil, fmt.Errorf("%w (nobody listened there for %v: start the destination, or raise --connect-timeout)", err, most)
		}
		select {
		case <-time.After(min(pause, left)):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
