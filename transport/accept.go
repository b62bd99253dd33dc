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
	// ErrNoSource is wrapped when no source connects within
	// AcceptConfig.ConnectTimeout.
	ErrNoSource = errors.New("transport: no source connected")
	// ErrChannels is wrapped when the source's multifd channels differ from the
	// expected ones in number, UUID or id.
	ErrChannels = errors.New("transport: multifd channels do not match")
)

// AcceptConfig describes the connections of a migration and bounds the wait for
// them.
type AcceptConfig struct {
	// Channels is the number of multifd channels.
	Channels int
	// UUID, if not all zero, is the required UUID of the source's machine.
	UUID [16]byte
	// TLS, if not nil, is required of every connection.
	TLS *tls.Config
	// ConnectTimeout bounds the wait for the source's connections; 0 waits
	// forever.
	ConnectTimeout time.Duration
	// LinkTimeout is the longest time without an acknowledgement from a TCP peer;
	// 0 is 30 s.
	LinkTimeout time.Duration
	// StallTimeout is how long an incomplete set of connections is kept while no
	// further connection arrives; 0 is 2 minutes, a negative value is forever.
	StallTimeout time.Duration
	// Logger receives the connections that are refused.
	Logger *slog.Logger

	// IdentifyWithin bounds the time from accepting a connection to reading the
	// bytes that identify it, including the TLS handshake; 0 is 10 s.
	IdentifyWithin time.Duration
}

// arrival is an identified connection.
type arrival struct {
	conn      net.Conn
	link      *Link // below conn
	main      bool
	handshake multifd.Handshake
	number    uint64 // counts accepted connections, in the order of connecting
	err       error  // the listener failed: no more connections follow
}

// Acceptor accepts connections during the whole migration. A source with more
// channels than expected must be detected, because the pages that it sends over
// the additional channels would be missing.
type Acceptor struct {
	ln         net.Listener
	cfg        *AcceptConfig
	arrivals   chan arrival
	cancel     context.CancelFunc
	goroutines sync.WaitGroup // acceptLoop and the goroutines that it started

	// pending are the accepted connections that are not delivered yet. pendingLeft
	// receives a value after a connection left pending.
	pending     pendingConns
	pendingLeft chan struct{}

	mu          sync.Mutex
	lastRefusal error // the reason for the most recent refusal
}

// NewAcceptor starts to accept connections from ln. The caller must call Stop.
func NewAcceptor(ctx context.Context, ln net.Listener, cfg *AcceptConfig) *Acceptor {
	ctx, cancel := context.WithCancel(ctx)
	a := &Acceptor{ln: ln, cfg: cfg, arrivals: make(chan arrival), cancel: cancel, pendingLeft: make(chan struct{}, 1)}
	// The limit bounds the connections of peers that connect and send nothing.
	a.pending.limit = cfg.Channels + 16
	a.goroutines.Go(func() { a.acceptLoop(ctx) })
	return a
}

// Stop closes the listener and waits until the Acceptor's goroutines have ended.
func (a *Acceptor) Stop() {
	a.cancel()
	a.ln.Close()
	a.goroutines.Wait()
}

// logRefusal records why a connection was refused.
func (a *Acceptor) logRefusal(why error) {
	a.mu.Lock()
	a.lastRefusal = why
	a.mu.Unlock()
	a.cfg.Logger.Warn("refused a connection", "error", why)
}

// withLastRefusal adds the reason for the most recent refusal to err, because the
// refused connection may have been the source's.
func (a *Acceptor) withLastRefusal(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lastRefusal == nil {
		return err
	}
	return fmt.Errorf("%w (the last refused connection: %w)", err, a.lastRefusal)
}

// RefuseMore refuses all connections that arrive after Gather, until ctx ends or
// CloseAccept returns. It returns an error that wraps ErrChannels if the source,
// identified by uuid, opens an additional channel, because the pages sent over that
// channel would be missing.
func (a *Acceptor) RefuseMore(ctx context.Context, uuid [16]byte) error {
	for {
		select {
		case c, ok := <-a.arrivals:
			if !ok {
				return nil
			}
			if c.err != nil {
				a.cfg.Logger.Warn("no further connections can be accepted", "error", c.err)
				continue
			}
			Socket(c.conn).Close()
			id := int(c.handshake.ID)
			switch {
			case c.main:
				a.logRefusal(fmt.Errorf("connection from %v: a second main channel during the migration", c.link.RemoteAddr()))
			case c.handshake.UUID != uuid:
				a.logRefusal(fmt.Errorf("connection from %v: multifd channel of another machine, UUID %x (want %x)", c.link.RemoteAddr(), c.handshake.UUID, uuid))
			case id < a.cfg.Channels:
				a.logRefusal(fmt.Errorf("connection from %v: duplicate multifd channel %d", c.link.RemoteAddr(), id))
			default:
				return tooManyChannels(id, a.cfg.Channels)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// tooManyChannels returns the error for a source with more channels than expected.
func tooManyChannels(id, channels int) error {
	return &multifd.ChannelError{Channel: id, Field: "id",
		Err: fmt.Errorf("%w: the source uses more than %d channels, 0 to %d: set the same multifd-channels on both", ErrChannels, channels, channels-1)}
}

const (
	// lastAcceptWait bounds the wait of CloseAccept for connections in the kernel's
	// queue that acceptLoop has not accepted yet.
	lastAcceptWait = 10 * time.Millisecond
	// identifyAtEnd replaces AcceptConfig.IdentifyWithin when the migration waits
	// for nothing else.
	identifyAtEnd = 2 * time.Second
)

// CloseAccept stops accepting. It returns when every connection that was made before
// the call has been delivered or refused; RefuseMore then returns.
func (a *Acceptor) CloseAccept() {
	if d, ok := a.ln.(deadlineListener); ok {
		// A source waits for CloseAccept with its machine paused: the common case, an
		// empty queue, takes no time.
		wait := lastAcceptWait
		if queueIsEmpty(a.ln) {
			wait = 0
		}
		d.SetDeadline(time.Now().Add(wait))
	} else {
		a.ln.Close()
	}
	// Do not wait for silent connections.
	a.pending.limitWait()
	slow := time.AfterFunc(identifyAtEnd, a.cancel)
	a.goroutines.Wait()
	slow.Stop()
	close(a.arrivals)
}

// acceptLoop accepts until ctx ends. A goroutine per connection identifies the
// connection, because a source may send nothing on one connection before it has made
// the others.
func (a *Acceptor) acceptLoop(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { a.ln.Close() })
	defer stop()
	logged := false
	onRetry := func(err error) {
		if a.pending.evictOldest(); !logged {
			logged = true
			a.cfg.Logger.Warn("accepting a connection failed, retrying", "error", err)
		}
	}
	for number := uint64(0); ; number++ {
		conn, err := AcceptNext(ctx, a.ln, onRetry)
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
				a.deliver(ctx, arrival{err: fmt.Errorf("accepting connections: %w", err)})
			}
			return
		}
		connCtx, p := a.pending.add(ctx)
		a.goroutines.Go(func() {
			a.identifyConn(connCtx, p, newLink(conn), number)
			a.pending.remove(p)
			select {
			case a.pendingLeft <- struct{}{}:
			default:
			}
		})
	}
}

// identifyConn identifies a connection, and delivers or refuses it.
func (a *Acceptor) identifyConn(ctx context.Context, p *pendingConn, l *Link, number uint64) {
	c, err := identify(ctx, l, a.cfg)
	if err != nil {
		if !errors.Is(context.Cause(ctx), context.Canceled) { // the Acceptor has not been stopped
			a.logRefusal(err)
		}
		return
	}
	a.pending.markIdentified(p)
	c.number = number
	a.deliver(ctx, c)
}

func (a *Acceptor) deliver(ctx context.Context, c arrival) {
	select {
	case a.arrivals <- c:
	case <-ctx.Done():
		if c.conn != nil {
			Socket(c.conn).Close()
		}
	}
}
