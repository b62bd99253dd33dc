package migration

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmferry/vmferry/multifd"
)

var (
	// ErrNobody is wrapped when the source did not connect in time.
	ErrNobody = errors.New("no source connected")
	// ErrChannels is wrapped when the source's channels are not those that
	// were expected.
	ErrChannels = errors.New("the source's channels do not match")
)

// arrival is a connection that has said what it is.
type arrival struct {
	conn      net.Conn
	main      bool
	handshake multifd.Handshake
	number    uint64 // in the order of accepting, which is that of connecting
	err       error
	stray     bool // it failed before it had shown that it is the source
}

// acceptor accepts connections for as long as a migration lasts: a source that
// has more channels than this side was told must not go unnoticed, because
// what it sends over them would be missing.
type acceptor struct {
	ln       net.Listener
	cfg      *ReceiveConfig
	arrivals chan arrival
	cancel   context.CancelFunc
	loop     sync.WaitGroup // acceptLoop and what it started

	// pending are connections that were accepted and have not arrived. idle
	// has something in it after there were fewer.
	pending atomic.Int64
	idle    chan struct{}
}

// startAccepting starts to accept. stop has to be called in the end.
func startAccepting(ctx context.Context, ln net.Listener, cfg *ReceiveConfig) *acceptor {
	ctx, cancel := context.WithCancel(ctx)
	a := &acceptor{ln: ln, cfg: cfg, arrivals: make(chan arrival), cancel: cancel, idle: make(chan struct{}, 1)}
	a.loop.Go(func() { a.acceptLoop(ctx) })
	return a
}

// stop ends the accepting and closes the listener.
func (a *acceptor) stop() {
	a.cancel()
	a.ln.Close()
	a.loop.Wait()
}

// refuseMore waits for connections beyond those that were gathered, until ctx
// ends or settle has looked for the last time. One that is a channel is an
// error.
func (a *acceptor) refuseMore(ctx context.Context) error {
	for {
		select {
		case c, ok := <-a.arrivals:
			switch {
			case !ok:
				return nil
			case c.err != nil:
				a.cfg.Logger.Warn("turned a connection away", "error", c.err)
				continue
			}
			dead := hungUp(c.conn)
			c.conn.Close()
			if known := c.main || int(c.handshake.ID) < a.cfg.Channels; known && dead {
				// Of a source that gave up connecting, and came again.
				a.cfg.Logger.Warn("turned a connection away that its source has closed")
				continue
			}
			if c.main {
				return fmt.Errorf("%w: a second main connection", ErrChannels)
			}
			return &multifd.ChannelError{Channel: int(c.handshake.ID), Field: "id",
				Err: fmt.Errorf("%w: it is one more than the %d that this side was told: set the same multifd-channels on both", ErrChannels, a.cfg.Channels)}
		case <-ctx.Done():
			return nil
		}
	}
}

// lastLook is how long settle waits for a connection that the kernel has and
// the accepting goroutine has not taken yet.
const lastLook = 10 * time.Millisecond

// settle makes sure that every connection that was made before it was called
// has been looked at; refuseMore then returns.
func (a *acceptor) settle() {
	if d, ok := a.ln.(deadliner); ok {
		d.SetDeadline(time.Now().Add(lastLook))
	} else {
		a.ln.Close()
	}
	// Somebody who connected and says nothing is not waited for.
	slow := time.AfterFunc(identifyTime, a.cancel)
	a.loop.Wait()
	slow.Stop()
	close(a.arrivals)
}

// acceptLoop accepts until ctx ends. Each connection is looked at by a
// goroutine of its own: a source may say nothing on one before it has made
// the others.
func (a *acceptor) acceptLoop(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { a.ln.Close() })
	defer stop()
	// A peer that only connects cannot make this side hold more than a few
	// connections.
	slots := make(chan struct{}, a.cfg.Channels+16)
	for number := uint64(0); ; number++ {
		conn, err := a.ln.Accept()
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
				a.deliver(ctx, arrival{err: fmt.Errorf("accepting connections: %w", err)})
			}
			return
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			conn.Close()
			return
		}
		a.pending.Add(1)
		a.loop.Go(func() {
			defer func() { <-slots }()
			c := identify(ctx, conn, a.cfg)
			c.number = number
			a.deliver(ctx, c)
			a.pending.Add(-1)
			select {
			case a.idle <- struct{}{}:
			default:
			}
		})
	}
}

func (a *acceptor) deliver(ctx context.Context, c arrival) {
	select {
	case a.arrivals <- c:
	case <-ctx.Done():
		if c.conn != nil {
			c.conn.Close()
		}
	}
}

// identify finds out what a connection is by its first bytes.
func identify(ctx context.Context, conn net.Conn, cfg *ReceiveConfig) arrival {
	// Ending ctx ends the reading.
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	setLinkTimeout(conn, cfg.LinkTimeout)
	if cfg.TLS != nil {
		t, err := serveTLS(ctx, conn, cfg.TLS)
		if err != nil {
			conn.Close()
			return arrival{err: fmt.Errorf("TLS with %v: %w", conn.RemoteAddr(), err), stray: true}
		}
		conn = t
	}
	peeked := &peekedConn{Conn: conn}
	var first [4]byte
	if _, err := io.ReadFull(conn, first[:]); err != nil {
		conn.Close()
		return arrival{err: fmt.Errorf("a connection from %v closed before it said what it is: %w", conn.RemoteAddr(), err), stray: true}
	}
	peeked.first = first[:]
	switch magic := binary.BigEndian.Uint32(first[:]); magic {
	case qemuMagic:
		return arrival{conn: peeked, main: true}
	case multifd.Magic:
		h, err := multifd.ReadHandshake(peeked)
		if err != nil {
			conn.Close()
			return arrival{err: err, stray: errors.Is(err, multifd.ErrTruncated)}
		}
		return arrival{conn: conn, handshake: h} // all that was peeked is read
	default:
		conn.Close()
		return arrival{err: fmt.Errorf("a connection from %v begins with %q, which is neither a migration's main channel nor a multifd channel (%w)", conn.RemoteAddr(), first[:], multifd.ErrMalformed)}
	}
}

const qemuMagic = 0x5145564d

// peekedConn gives bytes that were read too early once more.
type peekedConn struct {
	net.Conn
	first []byte
}

func (c *peekedConn) Read(p []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
