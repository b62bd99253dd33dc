package qmp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"
)

// DialWithin is Dial for a QEMU that may just be starting: while the socket is
// absent or refuses connections it tries again, for as long as patience says;
// 0 or less is a single attempt. Any other error is returned at once.
func DialWithin(ctx context.Context, path string, patience time.Duration) (*Client, error) {
	if patience <= 0 {
		return Dial(ctx, path)
	}
	const often = 50 * time.Millisecond
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for began := time.Now(); ; {
		c, err := Dial(ctx, path)
		if err == nil || !mayAppear(err) {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		case <-deadline.C:
			return nil, fmt.Errorf("%w (tried for %v)", err, max(time.Since(began), patience).Round(100*time.Millisecond))
		case <-time.After(often):
		}
	}
}

// mayAppear tells whether a QEMU that starts makes the error go away.
func mayAppear(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}
