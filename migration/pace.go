package migration

import (
	"context"

	"golang.org/x/time/rate"
)

// newLimiter makes what bounds the bytes a second of all channels together; nil
// for no bound. A fiftieth of a second's worth may come at once.
func newLimiter(bandwidth uint64) *rate.Limiter {
	if bandwidth == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(bandwidth), int(min(max(bandwidth/50, 64<<10), 1<<30)))
}

// pace waits until n bytes more may have been sent.
func pace(ctx context.Context, limit *rate.Limiter, n uint64) error {
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
