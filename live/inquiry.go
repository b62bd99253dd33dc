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

// verdict is the decision whether the machine runs at the destination. It is made once.
type verdict struct {
	mu            sync.Mutex
	undecided     bool
	runs          bool
	decided       chan struct{} // closed when runs is final
	interruptWait func()        // ends the wait for HandoverRun
}

func newVerdict(refused func()) *verdict {
	return &verdict{undecided: true, decided: make(chan struct{}), interruptWait: refused}
}

func (v *verdict) isUndecided() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.undecided
}

// commit decides to run, and returns false if the opposite was decided before. After
// true the caller must call finish.
func (v *verdict) commit() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	was := v.undecided
	v.undecided = false
	return was
}

// finish records whether the machine runs.
func (v *verdict) finish(runs bool) {
	v.runs = runs
	close(v.decided)
}

// refuse decides not to run, unless a decision was made before.
func (v *verdict) refuse() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.undecided {
		v.undecided = false
		v.finish(false)
		v.interruptWait()
	}
}

// maxInquiries is the number of inquiries that are read concurrently. A source makes
// one; a further connection evicts the oldest.
const maxInquiries = 8

// inquiryTimeout bounds one inquiry, on both sides.
const inquiryTimeout = 10 * time.Second

// inquiries answers inquiries of a source that lost its connections. A peer that knows
// the machine's UUID counts as the source.
type inquiries struct {
	uuid    [16]byte
	tls     *tls.Config
	log     *slog.Logger
	verdict *verdict
}

// answering answers inquiries until stop is called.
type answering struct {
	cancel   context.CancelFunc
	loop     sync.WaitGroup
	answered chan struct{} // receives a value after an inquiry was answered
}

// answer starts to answer inquiries on the migration's listener.
func (q *inquiries) answer(ctx context.Context, serve transport.Serve) *answering {
	ctx, cancel := context.WithCancel(ctx)
	a := &answering{cancel: cancel, answered: make(chan struct{}, 1)}
	if serve == nil {
		return a
	}
	a.loop.Go(func() {
		serve(ctx, func(ctx context.Context, conn net.Conn) {
			if err := q.answerOne(ctx, conn); err != nil {
				q.log.Warn("refused a connection", "error", err)
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

// wait returns when an inquiry was answered, or after timeout.
func (a *answering) wait(ctx context.Context, timeout time.Duration) {
	timer := time.NewTimer(timeout)
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
		return fmt.Errorf("%w: inquiry for the machine %x (want %x)", transport.ErrChannels, head.UUID, q.uuid)
	}
	for {
		c, err := r.NextCommand()
		if err != nil {
			return err
		}
		if code, _ := c.PingValue(); code == vmstate.HandoverInquire {
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

// inquire asks the destination over a new connection whether it runs the machine. It
// returns nil if the machine runs there, an error that wraps vmstate.ErrRefused if it
// never runs there, and the error of the attempt otherwise.
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

// inquireUntilKnown inquires until the answer is known, for up to timeout. It returns
// whether the machine runs at the destination, or an error that wraps ErrUndecided.
func inquireUntilKnown(ctx context.Context, dial transport.Dialer, head []byte, timeout time.Duration, provesDeath func(error) bool) (runs bool, cause error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := inquire(ctx, dial, head)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, vmstate.ErrRefused):
			return false, err
		case provesDeath(err):
			return false, fmt.Errorf("the destination is dead: %w", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false, fmt.Errorf("%w: no answer to inquiries for %v: %w", ErrUndecided, timeout, err)
		}
	}
}
