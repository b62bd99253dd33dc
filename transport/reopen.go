package transport

import (
	"context"
	"net"
	"sync"
	"time"
)

// deadlineListener is a listener that can pause accepting. Other listeners can only be
// closed, which a source takes for the death of the destination.
type deadlineListener interface{ SetDeadline(time.Time) error }

// CanReopen reports whether an Acceptor on ln can be reopened: ln has the method
// SetDeadline, as the listeners of package net have.
func CanReopen(ln net.Listener) bool {
	_, ok := ln.(deadlineListener)
	return ok
}

// Serve accepts connections until ctx ends and calls handle in a goroutine for each.
// It then closes the listener, and returns when every handler has returned. The
// context of a handler ends when a newer connection evicts its connection.
type Serve func(ctx context.Context, handle func(context.Context, net.Conn))

// Reopen lets the listener accept again after CloseAccept: at most limit connections
// at a time. It fails if CanReopen is false for the listener.
func (a *Acceptor) Reopen(limit int) (Serve, error) {
	ln, ok := a.ln.(deadlineListener)
	if !ok {
		return nil, net.ErrClosed
	}
	if err := ln.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return func(ctx context.Context, handle func(context.Context, net.Conn)) {
		defer context.AfterFunc(ctx, func() { a.ln.Close() })()
		onRetry := func(err error) {
			a.cfg.Logger.Warn("accepting a connection failed, retrying", "error", err)
		}
		pending := pendingConns{limit: limit}
		var handlers sync.WaitGroup
		defer handlers.Wait()
		for {
			conn, err := AcceptNext(ctx, a.ln, onRetry)
			if err != nil {
				return
			}
			connCtx, p := pending.add(ctx)
			handlers.Go(func() {
				defer pending.remove(p)
				handle(connCtx, conn)
			})
		}
	}, nil
}
