package cause

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/vmstate"
)

// Of returns the error that explains a failure. own is this side's error, peer is the
// reason that the peer reports; either may be nil. doing describes the failed operation.
//
//   - If own reports that this side closed the connection, and ctx has ended, Of
//     returns the cause of ctx.
//   - If own reports only that the connection ended, and peer is not nil, Of returns
//     peer, with doing and own in parentheses.
//   - Otherwise Of returns own, or peer if own is nil.
func Of(ctx context.Context, own, peer error, doing string) error {
	ended := context.Cause(ctx)
	switch {
	case own == nil:
		return peer
	case errors.Is(own, net.ErrClosed) && ended != nil && !errors.Is(ended, net.ErrClosed):
		return ended
	case peer != nil && ConnectionEnded(own):
		return fmt.Errorf("%w (%s: %w)", peer, doing, own)
	}
	return own
}

// ConnectionEnded reports whether an error reports only that a connection ended. Only
// the peer then knows the reason.
func ConnectionEnded(err error) bool {
	for _, ended := range []error{
		io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, unix.ECONNRESET, unix.EPIPE, multifd.ErrTruncated, vmstate.ErrTruncated,
	} {
		if errors.Is(err, ended) {
			return true
		}
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error" // crypto/tls: the peer sent an alert
}
