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
	"time"

	"github.com/vmferry/vmferry/multifd"
)

var (
	// ErrNobody is wrapped when the source did not connect in time.
	ErrNobody = errors.New("no source connected")
	// ErrChannels is wrapped when the source's channels are not those that
	// were expected.
	ErrChannels = errors.New("the source's channels do not match")
	// errConflict is that of a connection with the ones before it.
	errConflict = fmt.Errorf("%w", ErrChannels)
)

// connections are those of one migration.
type connections struct {
	main     net.Conn
	channels []net.Conn
	uuid     [16]byte
	hasUUID  bool
}

func (c *connections) close() {
	if c.main != nil {
		c.main.Close()
	}
	for _, conn := range c.channels {
		if conn != nil {
			conn.Close()
		}
	}
}

// arrival is a connection that has said what it is.
type arrival struct {
	conn      net.Conn
	main      bool
	handshake multifd.Handshake
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
}

// startAccepting starts to accept. stop has to be called in the end.
func startAccepting(ctx context.Context, ln net.Listener, cfg *ReceiveConfig) *acceptor {
	ctx, cancel := context.WithCancel(ctx)
	a := &acceptor{ln: ln, cfg: cfg, arrivals: make(chan arrival), cancel: cancel}
	a.loop.Go(func() { a.acceptLoop(ctx) })
	return a
}

// stop ends the accepting and closes the listener.
func (a *acceptor) stop() {
	a.cancel()
	a.ln.Close()
	a.loop.Wait()
}

// gather takes one main connection and the multifd channels, in any order.
func (a *acceptor) gather(ctx context.Context) (_ *connections, err error) {
	cfg := a.cfg
	if cfg.ConnectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, cfg.ConnectTimeout, fmt.Errorf("%w within %v", ErrNobody, cfg.ConnectTimeout))
		defer cancel()
	}
	conns := &connections{channels: make([]net.Conn, cfg.Channels)}
	defer func() {
		if err != nil {
			conns.close()
		}
	}()
	var settled <-chan time.Time
	for {
		if conns.count() == cfg.Channels+1 {
			if !conns.anyDead() {
				return conns, nil
			}
			if settled == nil {
				settled = time.After(lateness)
			}
		}
		select {
		case <-settled:
			if conns.count() == cfg.Channels+1 {
				return conns, nil
			}
			settled = nil
		case <-ctx.Done():
			err := context.Cause(ctx)
			if have := conns.count(); errors.Is(err, ErrNobody) && have > 0 {
				err = fmt.Errorf("%w: %d of %d connections came within %v (does the source have multifd on, with %d channels?)",
					ErrChannels, have, cfg.Channels+1, cfg.ConnectTimeout, cfg.Channels)
			}
			return nil, err
		case c := <-a.arrivals:
			if err := a.place(conns, c); err != nil {
				return nil, err
			}
		}
	}
}

// lateness is how long a source's connections may come behind those that it gave
// up before.
const lateness = 50 * time.Millisecond

// place sorts a connection in, or turns it away. Of two in one place one may be
// of a source that gave up connecting and tries again.
func (a *acceptor) place(conns *connections, c arrival) error {
	if c.stray {
		a.cfg.Logger.Warn("turned a connection away", "error", c.err)
		return nil
	}
	err := conns.add(c)
	if errors.Is(err, errConflict) {
		if hungUp(c.conn) {
			c.conn.Close()
			a.cfg.Logger.Warn("turned a connection away that its source has closed", "error", err)
			return nil
		}
		conns.dropDead()
		err = conns.add(c)
	}
	if err != nil && c.conn != nil {
		c.conn.Close()
	}
	return err
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
			late := hungUp(c.conn) // of a source that gave up connecting
			c.conn.Close()
			if known := c.main || int(c.handshake.ID) < a.cfg.Channels; known && late {
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
	slow := time.AfterFunc(2*time.Second, a.cancel)
	a.loop.Wait()
	slow.Stop()
	close(a.arrivals)
}

// add sorts in one connection.
func (c *connections) add(a arrival) error {
	if a.err != nil {
		return a.err
	}
	if a.main {
		if c.main != nil {
			return fmt.Errorf("%w: a second main connection", errConflict)
		}
		c.main = a.conn
		return nil
	}
	id := int(a.handshake.ID)
	fail := func(field string, kind error, format string, args ...any) error {
		return &multifd.ChannelError{Channel: id, Field: field, Err: fmt.Errorf("%w: %s", kind, fmt.Sprintf(format, args...))}
	}
	switch {
	case id >= len(c.channels):
		return fail("id", ErrChannels, "this side was told %d channels, 0 to %d: set the same multifd-channels on both", len(c.channels), len(c.channels)-1)
	case c.channels[id] != nil:
		return fail("id", errConflict, "it came twice")
	case c.hasUUID && c.uuid != a.handshake.UUID:
		return fail("uuid", errConflict, "%x, but another channel said %x", a.handshake.UUID, c.uuid)
	}
	c.channels[id] = a.conn
	c.uuid, c.hasUUID = a.handshake.UUID, true
	return nil
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
	for {
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
		a.loop.Go(func() {
			defer func() { <-slots }()
			a.deliver(ctx, identify(ctx, conn, a.cfg))
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
			return arrival{err: err}
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
