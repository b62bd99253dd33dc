package migration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/internal/cause"
	"github.com/vmferry/vmferry/vmstate"
)

// ReturnPath is what the destination says to the source. A goroutine reads it until the
// SHUT, or until the connection is closed.
type ReturnPath struct {
	pongs chan uint32
	ended chan struct{} // closed at the end; err is then how it went
	err   error
}

// Pongs gets the values of the PONGs.
func (b *ReturnPath) Pongs() <-chan uint32 { return b.pongs }

// Ended is closed at the end of the return path.
func (b *ReturnPath) Ended() <-chan struct{} { return b.ended }

// Err is how the return path ended: nil for the SHUT of a success. It may be called when
// Ended is closed.
func (b *ReturnPath) Err() error { return b.err }

func readReturnPath(r io.Reader) *ReturnPath {
	b := &ReturnPath{pongs: make(chan uint32, 16), ended: make(chan struct{})}
	go func() {
		defer close(b.ended)
		for {
			reply, err := vmstate.ReadReply(r)
			switch {
			case err != nil:
				b.err = err
				return
			case reply.Shut:
				b.err = reply.Err()
				return
			case reply.Other:
				continue
			}
			select {
			case b.pongs <- reply.Value:
			default: // nobody waits for that many
			}
		}
	}()
	return b
}

// lastReplyWait is how long the destination's reason may take after the loss of a
// connection.
const lastReplyWait = time.Second

// hasEndedAfter tells whether the return path has ended. If the destination broke a
// connection, its reason can still be on the way.
func (b *ReturnPath) hasEndedAfter(ctx context.Context, err error) bool {
	if !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		select {
		case <-b.ended:
			return true
		default:
			return false
		}
	}
	select {
	case <-b.ended:
		return true
	case <-ctx.Done():
	case <-time.After(lastReplyWait):
	}
	return false
}

// errNoReturnPath is a mistake of this package's user.
var errNoReturnPath = errors.New("the migration has no return path")

// Ping asks the destination to say that all that was sent before is in place,
// and waits until it does. It returns how long that took.
func (s *Sender) Ping(ctx context.Context) (time.Duration, error) {
	if s.returnPath == nil {
		return 0, errNoReturnPath
	}
	defer s.closeWhenDone(ctx)()
	s.pings++
	value, asked := pingBase+s.pings, time.Now()
	if err := s.SendCommand(vmstate.Ping(value)); err != nil {
		return 0, s.failure(ctx, err)
	}
	err := s.awaitPong(ctx, value)
	return time.Since(asked), err
}

// pingBase sets the values of Ping apart from the one that opens the return
// path, and from the words of the handover.
const pingBase = 0x1000

// SendCommand writes a command at once.
func (s *Sender) SendCommand(c vmstate.Command) error {
	if err := s.main.Command(c); err != nil {
		return err
	}
	return s.main.Flush()
}

// awaitPong waits for the PONG of that value.
func (s *Sender) awaitPong(ctx context.Context, value uint32) error {
	defer s.watch.AwaitReply()()
	for {
		select {
		case got := <-s.returnPath.pongs:
			if got == value {
				return nil
			}
		case <-s.returnPath.ended:
			if s.returnPath.err == nil {
				return fmt.Errorf("return path: %w: the destination says that it is done before the source is", vmstate.ErrMalformed)
			}
			return cause.Of(ctx, s.returnPath.err, nil, "")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
