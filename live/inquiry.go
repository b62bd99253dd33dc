package live

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// verdict is whether the machine runs at the destination. It is decided once.
type verdict struct {
	mu            sync.Mutex
	undecided     bool
	runs          bool
	decided       chan struct{} // closed when runs does not change any more
	interruptWait func()        // ends the wait for WordRun
}

func newVerdict(refused func()) *verdict {
	return &verdict{undecided: true, decided: make(chan struct{}), interruptWait: refused}
}

func (v *verdict) isUndecided() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.undecided
}

// commit decides to run, unless that was decided otherwise. finish has to
// follow.
func (v *verdict) commit() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	was := v.undecided
	v.undecided = false
	return was
}

// finish says how the decision to run turned out.
func (v *verdict) finish(runs bool) {
	v.runs = runs
	close(v.decided)
}

// refuse decides not to run, if nothing was decided.
func (v *verdict) refuse() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.undecided {
		v.undecided = false
		v.finish(false)
		v.interruptWait()
	}
}

// maxInquiries is how many inquiries are read at a time. A source makes one; if more
// connections come, the oldest is closed.
const maxInquiries = 8

// inquiryTimeout bounds one inquiry, on both sides.
const inquiryTimeout = 10 * time.Second

// inquiries are those of a source that lost its connections. A peer that knows the
// machine's uuid counts as the source.
type inquiries struct {
	uuid    [16]byte
	tls     *tls.Config
	log     *slog.Logger
	verdict *verdict
}

// answering answers inquiries until it is stopped.
type answering struct {
	cancel   context.CancelFunc
	loop     sync.WaitGroup
	answered chan struct{} // gets a value when the source has an answer
}

// answer begins to answer, where the migration came in.
func (q *inquiries) answer(ctx context.Context, serve transport.Serve) *answering {
	ctx, cancel := context.WithCancel(ctx)
	a := &answering{cancel: cancel, answered: make(chan struct{}, 1)}
	if serve == nil {
		return a
	}
	a.loop.Go(func() {
		serve(ctx, func(ctx context.Context, conn net.Conn) {
			if err := q.answerOne(ctx, conn); err != nil {
				q.log.Warn("turned a connection away", "error", err)
				return
			}
			select {
			case a.answered <- struct{}{}:
			default:
			}
		})
	})
	return a
}

func (a *answering) stop() {
	a.cancel()
	a.loop.Wait()
}

// wait returns when an inquiry was answered, or after the time given.
func (a *answering) wait(ctx context.Context, most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-a.answered:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// answerOne reads one inquiry and answers it.
func (q *inquiries) answerOne(ctx context.Context, conn net.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, inquiryTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	if q.tls != nil {
		t, err := transport.ServeTLS(ctx, conn, q.tls)
		if err != nil {
			return fmt.Errorf("TLS with %v: %w", conn.RemoteAddr(), err)
		}
		conn = t
	}
	r := vmstate.NewDestination(conn, conn, vmstate.DestinationOptions{})
	head, err := r.ReadHead()
	if err != nil {
		return err
	}
	if !head.HasUUID || head.UUID != q.uuid {
		return fmt.Errorf("%w: an inquiry about the machine %x (this is %x)", transport.ErrChannels, head.UUID, q.uuid)
	}
	for {
		c, err := r.NextCommand()
		if err != nil {
			return err
		}
		if word, _ := c.PingValue(); word == vmstate.HandoverInquire {
			break
		}
	}
	q.verdict.refuse()
	select {
	case <-q.verdict.decided:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return r.Shut(q.verdict.runs)
}

// inquire asks the destination, over a new connection, whether it runs. It is
// nil if it does, an error that wraps vmstate.ErrRefused if it never will, and
// the error of the attempt otherwise.
func inquire(ctx context.Context, dial transport.Dialer, head []byte) error {
	ctx, cancel := context.WithTimeout(ctx, inquiryTimeout)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	w := vmstate.NewWriter(conn, nil, vmstate.SyncPerRound)
	w.Head(head)
	for _, c := range append(vmstate.OpenReturnPath(), vmstate.Ping(vmstate.HandoverInquire)) {
		w.Command(c)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return vmstate.AwaitShut(conn)
}

// inquireUntilKnown inquires until the answer is known, or time is up. It returns
// whether the destination runs, or an error that wraps ErrUndecided.
func inquireUntilKnown(ctx context.Context, dial transport.Dialer, head []byte, most time.Duration, proves func(error) bool) (runs bool, cause error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := inquire(ctx, dial, head)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, vmstate.ErrRefused):
			return false, err
		case proves(err):
			return false, fmt.Errorf("the destination is dead: %w", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false, fmt.Errorf("%w: asking for %v: %w", ErrUndecided, most, err)
		}
	}
}
