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

// ReturnPath has the messages from the destination to the source. A goroutine reads
// them up to SHUT, or until the connection is closed.
type ReturnPath struct {
	pongs chan uint32
	ended chan struct{} // closed at the end, when err is set
	err   error
}

// Pongs returns a channel that receives the values of PONGs. When 16 values are
// unread, further values are dropped.
func (b *ReturnPath) Pongs() <-chan uint32 { return b.pongs }

// Ended returns a channel that is closed at the end of the return path.
func (b *ReturnPath) Ended() <-chan struct{} { return b.ended }

// Err returns the result of the migration: nil after a SHUT of success. It must not be
// called before Ended is closed.
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
			default: // no wait needs more values than the buffer has
			}
		}
	}()
	return b
}

// lastReplyWait bounds the wait for the destination's SHUT after the loss of a
// connection.
const lastReplyWait = time.Second

// hasEndedAfter reports whether the return path has ended. After an error by which the
// destination may have closed a connection, it waits for the destination's SHUT, which
// can still be in flight.
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

var errNoReturnPath = errors.New("migration: no return path (set SendConfig.ReturnPath)")

// Ping waits until the destination has processed everything that was sent before, and
// returns the duration of the wait. It needs SendConfig.ReturnPath.
func (s *Sender) Ping(ctx context.Context) (time.Duration, error) {
	if s.returnPath == nil {
		return 0, errNoReturnPath
	}
	defer s.closeWhenDone(ctx)()
	s.pings++
	value, began := pingBase+s.pings, time.Now()
	if err := s.SendCommand(vmstate.Ping(value)); err != nil {
		return 0, s.failure(ctx, err)
	}
	err := s.awaitPong(ctx, value)
	return time.Since(began), err
}

// pingBase separates the values of Ping from the one that opens the return path and
// from the handover codes.
const pingBase = 0x1000

// SendCommand writes a command and flushes the main channel.
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
				return fmt.Errorf("return path: %w: SHUT before the end of the migration", vmstate.ErrMalformed)
			}
			return cause.Of(ctx, s.returnPath.err, nil, "")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
