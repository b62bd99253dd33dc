package migration

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// newLimiter returns a limiter of bytes per second for all channels together, nil if
// bandwidth is 0. Its burst is the bytes of 20 ms.
func newLimiter(bandwidth uint64) *rate.Limiter {
	if bandwidth == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(bandwidth), int(min(max(bandwidth/50, 1), 1<<30)))
}

// Pace limits the rate at which Receive reads all multifd channels together, and so the
// rate at which the source sends. A nil *Pace does not limit. Its methods may be called
// concurrently.
type Pace struct {
	limit    *rate.Limiter
	liftOnce sync.Once
	lifted   chan struct{}
}

// NewPace returns a limit of bandwidth bytes per second, nil if bandwidth is 0.
func NewPace(bandwidth uint64) *Pace {
	if bandwidth == 0 {
		return nil
	}
	return &Pace{limit: newLimiter(bandwidth), lifted: make(chan struct{})}
}

// Lift removes the limit permanently and ends all waits.
func (p *Pace) Lift() {
	if p != nil {
		p.liftOnce.Do(func() { close(p.lifted) })
	}
}

// wait delays the caller after it has read n bytes.
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

// waitLimit delays the caller after it has sent n bytes.
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
