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

// Of returns the error that explains a failure. own is what this side saw while it did
// something, peer the reason that the other side gives; either may be nil.
//
//   - Own says that this side closed the connection, and ctx has ended: the cause of
//     ctx explains it.
//   - Own says only that the connection ended, and the peer gives a reason: the peer's
//     reason explains it. Own follows in parentheses, after doing.
//   - Otherwise own explains it, and without own the peer's reason.
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

// ConnectionEnded tells whether an error says only that a connection ended. The reason
// is then the other side's to give.
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
