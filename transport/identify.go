package transport

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// IdentifyConfig bounds what IdentifyEach does for connections that are not identified.
type IdentifyConfig struct {
	// Limit is the number of connections that may wait at a time; 0 is 16. A newer
	// connection evicts the oldest one.
	Limit int
	// Within bounds the time from accepting a connection to its identification; 0 is
	// 10 s.
	Within time.Duration
	// Refused, if not nil, receives the reasons for which connections are closed.
	Refused func(error)
}

// IdentifyEach accepts connections from ln until ctx ends, closes ln, and returns when
// all calls of identify have returned. It calls identify for each connection in a
// goroutine of its own. After the time of cfg, identify's context ends and its reads and
// writes fail. If identify returns nil, the connection belongs to identify; otherwise
// IdentifyEach closes it.
func IdentifyEach(ctx context.Context, ln net.Listener, cfg IdentifyConfig, identify func(context.Context, net.Conn) error) error {
	if cfg.Limit == 0 {
		cfg.Limit = 16
	}
	if cfg.Within == 0 {
		cfg.Within = identifyWithin
	}
	if cfg.Refused == nil {
		cfg.Refused = func(error) {}
	}
	ctx, cancel := context.WithCancel(ctx)
	pending := &pendingConns{limit: cfg.Limit}
	var identifying sync.WaitGroup
	defer identifying.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for {
		conn, err := AcceptNext(ctx, ln, func(error) { pending.evictOldest() })
		if err != nil {
			ln.Close()
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		enableKeepAlive(conn)
		connCtx, p := pending.add(ctx)
		identifying.Go(func() {
			defer pending.remove(p)
			if err := identifyWithinTime(connCtx, conn, cfg.Within, identify); err != nil {
				conn.Close()
				if ctx.Err() == nil {
					cfg.Refused(err)
				}
			}
		})
	}
}

// identifyWithinTime calls identify. If the time passes or ctx ends first, it returns why.
func identifyWithinTime(ctx context.Context, conn net.Conn, within time.Duration, identify func(context.Context, net.Conn) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, errSilent)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err := identify(ctx, conn)
	if !stop() && err != nil {
		err = context.Cause(ctx)
	}
	return err
}
