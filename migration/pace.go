package migration

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// newLimiter makes what bounds the bytes a second of all channels together; nil
// for no bound. A fiftieth of a second's worth may come at once.
func newLimiter(bandwidth uint64) *rate.Limiter {
	if bandwidth == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(bandwidth), int(min(max(bandwidth/50, 1), 1<<30)))
}

// Pace bounds how fast Receive reads the multifd channels, all together, so that
// the source cannot send faster. A nil Pace bounds nothing.
type Pace struct {
	limit    *rate.Limiter
	liftOnce sync.Once
	lifted   chan struct{}
}

// NewPace returns a bound of so many bytes a second; nil if that is 0.
func NewPace(bandwidth uint64) *Pace {
	if bandwidth == 0 {
		return nil
	}
	return &Pace{limit: newLimiter(bandwidth), lifted: make(chan struct{})}
}

// Lift takes the bound away for good, and ends all waiting for it.
func (p *Pace) Lift() {
	if p != nil {
		p.liftOnce.Do(func() { close(p.lifted) })
	}
}

// wait waits until n bytes more may have been read.
func (p *Pace) wait(ctx context.Context, n uint64) error {
	for p != nil && n > 0 {
		part := min(n, uint64(p.limit.Burst()))
		timer := time.NewTimer(p.limit.ReserveN(time.Now(), int(part)).Delay())
		select {
		case <-timer.C:
			n -= part
		case <-p.lifted:
			timer.Stop()
			return nil
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
	return nil
}

// waitLimit waits until n bytes more may have been sent.
func waitLimit(ctx context.Context, limit *rate.Limiter, n uint64) error {
	for limit != nil && n > 0 {
		part := min(n, uint64(limit.Burst()))
		if err := limit.WaitN(ctx, int(part)); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
		n -= part
	}
	return nil
}
