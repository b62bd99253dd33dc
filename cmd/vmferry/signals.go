package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// errSignal is why a command ended that a signal ended.
var errSignal = errors.New("interrupted")

// sameSignal is for how long further signals count as the first one: timeout(1) sends
// its signal to the process and to the process group, and so twice.
const sameSignal = 2 * time.Second

// untilSignal returns a context that ends with the first signal. A signal after
// sameSignal ends the process at once, without putting things in order.
func untilSignal(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	stopped := make(chan struct{})
	go func() {
		select {
		case s := <-signals:
			cancel(fmt.Errorf("%w by %v", errSignal, s))
		case <-stopped:
			return
		}
		select {
		case <-time.After(sameSignal):
			signal.Stop(signals)
		case <-stopped:
		}
	}()
	return ctx, func() {
		close(stopped)
		signal.Stop(signals)
		cancel(nil)
	}
}
