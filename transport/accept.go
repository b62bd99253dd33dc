package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/vmferry/vmferry/multifd"
)

var (
	// ErrNobody is wrapped when the source did not connect in time.
	ErrNoSource = errors.New("no source connected")
	// ErrChannels is wrapped when the source's channels are not those that
	// were expected.
	ErrChannels = errors.New("the source's channels do not match")
)

// AcceptConfig says which connections make up a migration, and how long they are
// waited for.
type AcceptConfig struct {
	// Channels is the number of multifd channels.
	Channels int
	// UUID, if not all zero, is the source's machine's.
	UUID [16]byte
	// TLS, if not nil, is required of every connection.
	TLS *tls.Config
	// ConnectTimeout bounds the wait for the source's connections; 0 waits
	// forever.
	ConnectTimeout time.Duration
	// LinkTimeout is how long a TCP peer may acknowledge nothing; 0 is 30 s.
	LinkTimeout time.Duration
	// StallTimeout is how long connections of a migration are kept while the others
	// do not come; 0 is 2 minutes, less than 0 is forever.
	StallTimeout time.Duration
	// Logger gets the connections that are refused.
	Logger *slog.Logger

	// IdentifyWithin is how long a connection may take to say what it is, TLS
	// included; 0 is 10 s.
	IdentifyWithin time.Duration
}

// arrival is a connection that has said what it is.
type arrival struct {
	conn      net.Conn
	link      *Link // below conn
	main      bool
	handshake multifd.Handshake
	number    uint64 // in the order of accepting, which is that of connecting
	err       error  // of the listener: there are no more connections
}

// Acceptor accepts connections for as long as a migration lasts: a source that
// has more channels than this side expects must not go unnoticed, because
// what it sends over them would be missing.
type Acceptor struct {
	ln       net.Listener
	cfg      *AcceptConfig
	arrivals chan arrival
	cancel   context.CancelFunc
	loop     sync.WaitGroup // acceptLoop and what it started

	// pending are connections that were accepted and have not arrived. idle
	// has something in it after there were fewer.
	pending newcomers
	idle    chan struct{}

	mu       sync.Mutex
	stranger error // why a connection was turned away last
}

// NewAcceptor begins to accept connections. Stop has to be called in the end.
func NewAcceptor(ctx context.Context, ln net.Listener, cfg *AcceptConfig) *Acceptor {
	ctx, cancel := context.WithCancel(ctx)
	a := &Acceptor{ln: ln, cfg: cfg, arrivals: make(chan arrival), cancel: cancel, idle: make(chan struct{}, 1)}
	// A peer that only connects cannot make this side hold more than a few
	// connections.
	a.pending.most = cfg.Channels + 16
	a.loop.Go(func() { a.acceptLoop(ctx) })
	return a
}

// Stop ends the accepting and closes the listener.
func (a *Acceptor) Stop() {
	a.cancel()
	a.ln.Close()
	a.loop.Wait()
}

// turnAway says that a connection was closed because it is not the migration's.
func (a *Acceptor) turnAway(why error) {
	a.mu.Lock()
	a.stranger = why
	a.mu.Unlock()
	a.cfg.Logger.Warn("turned a connection away", "error", why)
}

// quoteStranger adds to an error why a connection was turned away last: the
// source may have been behind it.
func (a *Acceptor) quoteStranger(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stranger == nil {
		return err
	}
	return fmt.Errorf("%w (the last connection that was turned away: %w)", err, a.stranger)
}

// RefuseMore waits for connections beyond those that were gathered, until ctx
// ends or CloseAccept has looked for the last time. One more channel of the source is
// an error: what the source sends over it is missing. Others are strangers'.
func (a *Acceptor) RefuseMore(ctx context.Context, uuid [16]byte) error {
	for {
		select {
		case c, ok := <-a.arrivals:
			if !ok {
				return nil
			}
			if c.err != nil {
				a.cfg.Logger.Warn("no more connections can be looked at", "error", c.err)
				continue
			}
			socketOf(c.conn).Close()
			id := int(c.handshake.ID)
			switch {
			case c.main:
				a.turnAway(fmt.Errorf("a connection from %v begins a second main channel while the migration is under way", c.link.RemoteAddr()))
			case c.handshake.UUID != uuid:
				a.turnAway(fmt.Errorf("a connection from %v is a multifd channel of another machine, %x (this is %x)", c.link.RemoteAddr(), c.handshake.UUID, uuid))
			case id < a.cfg.Channels:
				a.turnAway(fmt.Errorf("a connection from %v is multifd channel %d once more", c.link.RemoteAddr(), id))
			default:
				return tooMany(id, a.cfg.Channels)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// tooMany is the error of a source with more channels than this side expects.
func tooMany(id, channels int) error {
	return &multifd.ChannelError{Channel: id, Field: "id",
		Err: fmt.Errorf("%w: the source uses more than %d channels, 0 to %d: set the same multifd-channels on both", ErrChannels, channels, channels-1)}
}

const (
	// lastLook is how long CloseAccept waits for a connection that the kernel has
	// and the accepting goroutine has not taken yet.
	lastLook = 10 * time.Millisecond
	// identifyAtEnd is how long an accepted connection may take to say what it
	// is, once the migration waits for nothing else.
	identifyAtEnd = 2 * time.Second
)

// CloseAccept makes sure that every connection that was made before it was called
// has been looked at; refuseMore then returns.
func (a *Acceptor) CloseAccept() {
	if d, ok := a.ln.(deadliner); ok {
		d.SetDeadline(time.Now().Add(lastLook))
	} else {
		a.ln.Close()
	}
	// A connection that is there and says nothing is not waited for.
	a.pending.hurry()
	slow := time.AfterFunc(identifyAtEnd, a.cancel)
	a.loop.Wait()
	slow.Stop()
	close(a.arrivals)
}

// acceptLoop accepts until ctx ends. Each connection is looked at by a
// goroutine of its own: a source may say nothing on one before it has made
// the others.
func (a *Acceptor) acceptLoop(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { a.ln.Close() })
	defer stop()
	said := false
	busy := func(err error) {
		if a.pending.makeRoom(); !said {
			said = true
			a.cfg.Logger.Warn("accepting connections fails for now, and is tried again", "error", err)
		}
	}
	for number := uint64(0); ; number++ {
		conn, err := acceptNext(ctx, a.ln, busy)
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
				a.deliver(ctx, arrival{err: fmt.Errorf("accepting connections: %w", err)})
			}
			return
		}
		own, here := a.pending.add(ctx)
		a.loop.Go(func() {
			a.look(own, here, newLink(conn), number)
			a.pending.remove(here)
			select {
			case a.idle <- struct{}{}:
			default:
			}
		})
	}
}

// look finds out what a connection is, and delivers it or turns it away.
func (a *Acceptor) look(ctx context.Context, here *newcomer, l *Link, number uint64) {
	c, err := identify(ctx, l, a.cfg)
	if err != nil {
		if !errors.Is(context.Cause(ctx), context.Canceled) { // not when the accepting ends
			a.turnAway(err)
		}
		return
	}
	a.pending.identified(here)
	c.number = number
	a.deliver(ctx, c)
}

func (a *Acceptor) deliver(ctx context.Context, c arrival) {
	select {
	case a.arrivals <- c:
	case <-ctx.Done():
		if c.conn != nil {
			socketOf(c.conn).Close()
		}
	}
}
