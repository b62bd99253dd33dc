package migration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/vmferry/vmferry/multifd"
)

// connections are those of one migration.
type connections struct {
	main     net.Conn
	channels []net.Conn
	uuid     [16]byte
	hasUUID  bool
	numbers  map[net.Conn]uint64 // of their arrivals
}

func (c *connections) all() []net.Conn { return append([]net.Conn{c.main}, c.channels...) }

func (c *connections) close() {
	for _, conn := range c.all() {
		if conn != nil {
			conn.Close()
		}
	}
}

// count returns how many there are.
func (c *connections) count() (n int) {
	for _, conn := range c.all() {
		if conn != nil {
			n++
		}
	}
	return n
}

func (c *connections) whole() bool { return c.count() == len(c.channels)+1 }

// anyDead says whether the source has hung up on one of them. One that has sent
// all may well have.
func (c *connections) anyDead() bool {
	return slices.ContainsFunc(c.all(), func(conn net.Conn) bool { return conn != nil && hungUp(conn) })
}

// identifyTime is how long a connection that was accepted is waited for to say
// what it is, where nothing else is waited for.
const identifyTime = 2 * time.Second

// gather takes one main connection and the multifd channels, in any order.
func (a *acceptor) gather(ctx context.Context) (_ *connections, err error) {
	cfg := a.cfg
	if cfg.ConnectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, cfg.ConnectTimeout, fmt.Errorf("%w within %v", ErrNobody, cfg.ConnectTimeout))
		defer cancel()
	}
	conns := &connections{channels: make([]net.Conn, cfg.Channels), numbers: make(map[net.Conn]uint64)}
	defer func() {
		if err != nil {
			conns.close()
		}
	}()
	var patience <-chan time.Time
	for {
		if conns.whole() {
			// What is dead may be of a source that gave up connecting. If it
			// came again, what replaces it has been accepted.
			if !conns.anyDead() || a.pending.Load() == 0 {
				return conns, nil
			}
			if patience == nil {
				patience = time.After(identifyTime)
			}
		}
		select {
		case c := <-a.arrivals:
			if err := a.place(conns, c); err != nil {
				return nil, err
			}
		case <-a.idle:
		case <-patience:
			if conns.whole() {
				return conns, nil
			}
			patience = nil
		case <-ctx.Done():
			if conns.whole() {
				return conns, nil
			}
			err := context.Cause(ctx)
			if have := conns.count(); errors.Is(err, ErrNobody) && have > 0 {
				err = fmt.Errorf("%w: %d of %d connections came within %v (does the source have multifd on, with %d channels?)",
					ErrChannels, have, cfg.Channels+1, cfg.ConnectTimeout, cfg.Channels)
			}
			return nil, err
		}
	}
}

// place sorts a connection in, or turns it away. Of two in one place the older
// one may be of a source that gave up connecting and came again.
func (a *acceptor) place(conns *connections, c arrival) error {
	if c.stray || c.err != nil && conns.whole() {
		a.cfg.Logger.Warn("turned a connection away", "error", c.err)
		return nil
	}
	err := conns.add(c)
	if errors.Is(err, errConflict) {
		conns.dropDead(c.number, a.cfg.Logger)
		if err = conns.add(c); errors.Is(err, errConflict) && hungUp(c.conn) {
			c.conn.Close()
			a.cfg.Logger.Warn("turned a connection away that its source has closed", "error", err)
			return nil
		}
	}
	if err != nil && c.conn != nil {
		c.conn.Close()
	}
	return err
}

// errConflict is that of a connection with those that came before it.
var errConflict = fmt.Errorf("%w", ErrChannels)

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
		c.numbers[a.conn] = a.number
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
	c.numbers[a.conn] = a.number
	c.uuid, c.hasUUID = a.handshake.UUID, true
	return nil
}

// dropDead closes and forgets the connections from before one that the source has
// hung up on.
func (c *connections) dropDead(before uint64, log *slog.Logger) {
	dead := func(conn net.Conn) bool {
		if conn == nil || c.numbers[conn] > before || !hungUp(conn) {
			return false
		}
		conn.Close()
		log.Warn("forgot a connection that its source has closed, for one that came after it")
		return true
	}
	if dead(c.main) {
		c.main = nil
	}
	c.hasUUID = false
	for i, conn := range c.channels {
		if dead(conn) {
			c.channels[i] = nil
		}
		c.hasUUID = c.hasUUID || c.channels[i] != nil // the uuid is of those that are left
	}
}
