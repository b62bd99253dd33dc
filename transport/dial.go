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
var ErrNoConnection = errors.New("no connection to the destination")

// Dialer makes a connection to the destination. The context bounds the dialing and
// ends with it: as with net.Dialer, the connection outlives the context.
type Dialer func(ctx context.Context) (net.Conn, error)

// Link makes one connection. Dialing takes no longer than the link timeout; 0 is
// 30 s.
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

// LinkOnceListening makes a connection. While no process listens there, it tries
// again for up to the time in patience.
func (dial Dialer) LinkOnceListening(ctx context.Context, timeout, patience time.Duration) (*Link, error) {
	began := time.Now()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		l, err := dial.Link(ctx, timeout)
		if err == nil || patience <= 0 || !NoListener(err) {
			return l, err
		}
		left := patience - time.Since(began)
		if left <= 0 {
			return nil, fmt.Errorf("%w (no process listened there for %v: start the destination, or raise --connect-timeout)", err, patience)
		}
		select {
		case <-time.After(min(pause, left)):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// NoListener tells whether an error of connecting proves that no process listens
// there any more. Behind a proxy, which listens itself, it proves nothing.
func NoListener(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT)
}
