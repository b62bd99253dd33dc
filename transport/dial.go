package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoConnection is wrapped when dialing takes longer than the link timeout.
var ErrNoConnection = errors.New("transport: no connection to the destination")

// Dialer connects to the destination. As with net.Dialer, the context bounds only the
// dialing: the end of the context does not close the connection.
type Dialer func(ctx context.Context) (net.Conn, error)

// Link dials once. Dialing fails with an error that wraps ErrNoConnection after
// timeout; 0 is 30 s.
func (dial Dialer) Link(ctx context.Context, timeout time.Duration) (*Link, error) {
	if timeout <= 0 {
		timeout = defaultLinkTimeout
	}
	dialing, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := dial(dialing)
	if err != nil && dialing.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w within %v: %w", ErrNoConnection, timeout, err)
	}
	if err != nil {
		return nil, err
	}
	setLinkTimeout(conn, timeout)
	return newLink(conn), nil
}

// LinkOnceListening dials. While no process listens at the destination, it dials
// again, for up to wait; 0 dials once.
func (dial Dialer) LinkOnceListening(ctx context.Context, timeout, wait time.Duration) (*Link, error) {
	began := time.Now()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		l, err := dial.Link(ctx, timeout)
		if err == nil || wait <= 0 || !NoListener(err) {
			return l, err
		}
		left := wait - time.Since(began)
		if left <= 0 {
			return nil, fmt.Errorf("%w (no process listened there for %v: start the destination, or raise --connect-timeout)", err, wait)
		}
		select {
		case <-time.After(min(pause, left)):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// NoListener reports whether a dialing error proves that no process listens at the
// address: connection refused, or no such socket. With a proxy in between it proves
// nothing about the destination.
func NoListener(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT)
}
