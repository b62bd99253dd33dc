package migration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/vmferry/vmferry/vmstate"
)

// verdict is whether the machine runs at the destination. It is decided once.
type verdict struct {
	mu      sync.Mutex
	open    bool
	runs    bool
	settled chan struct{} // closed when runs is final
	refused func()        // wakes whoever waits for the word to run
}

func newVerdict(refused func()) *verdict {
	return &verdict{open: true, settled: make(chan struct{}), refused: refused}
}

func (v *verdict) isOpen() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.open
}

// commit decides to run, unless that was decided otherwise. settle has to
// follow.
func (v *verdict) commit() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	was := v.open
	v.open = false
	return was
}

// settle says how the decision to run turned out.
func (v *verdict) settle(runs bool) {
	v.runs = runs
	close(v.settled)
}

// refuse decides not to run, if nothing was decided.
func (v *verdict) refuse() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.open {
		v.open = false
		v.settle(false)
		v.refused()
	}
}

// maxInquiries is how many are listened to at a time. A source makes one; where
// more connections come, the oldest has to go.
const maxInquiries = 8

// inquiryTime bounds one inquiry, on both sides.
const inquiryTime = 10 * time.Second

// answering answers inquiries until it is stopped.
type answering struct {
	cancel   context.CancelFunc
	loop     sync.WaitGroup
	answered chan struct{} // gets a value when a source was told
}

// answerInquiries listens where the migration came in. Whoever knows the
// machine's uuid is taken for the source.
func (d *destination) answerInquiries(v *verdict, received *Received) *answering {
	ctx, cancel := context.WithCancel(d.ctx)
	a := &answering{cancel: cancel, answered: make(chan struct{}, 1)}
	ln := d.acc.ln
	if err := ln.(deadliner).SetDeadline(time.Time{}); err != nil {
		d.cfg.Logger.Warn("a source that loses its connections now cannot ask here", "error", err)
		return a
	}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	busy := func(err error) {
		d.cfg.Logger.Warn("accepting an inquiry fails for now, and is tried again", "error", err)
	}
	pending := newcomers{most: maxInquiries}
	a.loop.Go(func() {
		defer stop()
		for {
			conn, err := acceptNext(ctx, ln, busy)
			if err != nil {
				return
			}
			own, here := pending.add(ctx)
			a.loop.Go(func() {
				defer pending.remove(here)
				if err := d.answer(own, conn, v, received); err != nil {
					d.cfg.Logger.Warn("turned a connection away", "error", err)
					return
				}
				select {
				case a.answered <- struct{}{}:
				default:
				}
			})
		}
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

// answer takes one inquiry.
func (d *destination) answer(ctx context.Context, conn net.Conn, v *verdict, received *Received) error {
	ctx, cancel := context.WithTimeout(ctx, inquiryTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	if d.cfg.TLS != nil {
		t, err := serveTLS(ctx, conn, d.cfg.TLS)
		if err != nil {
			return fmt.Errorf("TLS with %v: %w", conn.RemoteAddr(), err)
		}
		conn = t
	}
	r := vmstate.NewReader(conn, conn, vmstate.ReaderOptions{})
	head, err := r.ReadHead()
	if err != nil {
		return err
	}
	if !head.HasUUID || head.UUID != received.UUID {
		return fmt.Errorf("%w: an inquiry about the machine %x (this is %x)", ErrChannels, head.UUID, received.UUID)
	}
	for {
		c, err := r.NextCommand()
		if err != nil {
			return err
		}
		if word, _ := c.Word(); word == wordInquire {
			break
		}
	}
	v.refuse()
	select {
	case <-v.settled:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return r.Shut(v.runs)
}

// inquire asks the destination, over a new connection, whether it runs. It is
// nil if it does, an error that wraps vmstate.ErrRefused if it never will, and
// the error of the attempt otherwise.
func inquire(ctx context.Context, dial Dialer, head []byte) error {
	ctx, cancel := context.WithTimeout(ctx, inquiryTime)
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
	for _, c := range append(vmstate.OpenReturnPath(), vmstate.Ping(wordInquire)) {
		w.Command(c)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return vmstate.AwaitShut(conn)
}

// askUntilKnown inquires until the answer is known, or time is up. It returns
// whether the destination runs, or an error that wraps ErrUndecided.
func askUntilKnown(ctx context.Context, dial Dialer, head []byte, most time.Duration, proves func(error) bool) (runs bool, cause error) {
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
