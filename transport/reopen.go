package transport

import (
	"context"
	"net"
	"sync"
	"time"
)

// deadliner is a listener that can stop accepting for a while. Another one can only be
// closed, which a source takes for the death of the destination.
type deadliner interface{ SetDeadline(time.Time) error }

// CanReopen tells whether an Acceptor on the listener can be reopened: the listener has
// the method SetDeadline, as those of package net have.
func CanReopen(ln net.Listener) bool {
	_, ok := ln.(deadliner)
	return ok
}

// Serve accepts connections until ctx ends, closes the listener then, and returns when
// every handler has returned. The context of a handler ends when a newer connection
// needs its place.
type Serve func(ctx context.Context, handle func(context.Context, net.Conn))

// Reopen lets the listener accept again after CloseAccept: most connections at a time.
// It fails if the listener cannot be reopened.
func (a *Acceptor) Reopen(most int) (Serve, error) {
	ln, ok := a.ln.(deadliner)
	if !ok {
		return nil, net.ErrClosed
	}
	if err := ln.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return func(ctx context.Context, handle func(context.Context, net.Conn)) {
		defer context.AfterFunc(ctx, func() { a.ln.Close() })()
		busy := func(err error) {
			a.cfg.Logger.Warn("accepting a connection fails for now, and is tried again", "error", err)
		}
		pending := newcomers{most: most}
		var handlers sync.WaitGroup
		defer handlers.Wait()
		for {
			conn, err := acceptNext(ctx, a.ln, busy)
			if err != nil {
				return
			}
			own, here := pending.add(ctx)
			handlers.Go(func() {
				defer pending.remove(here)
				handle(own, conn)
			})
		}
	}, nil
}
