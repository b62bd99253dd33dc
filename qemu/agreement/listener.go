package agreement

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/vmferry/vmferry/transport"
)

// ListenerConfig configures a Listener.
type ListenerConfig struct {
	// TLS, if not nil, is required of every connection, in version 1.3 or later.
	TLS *tls.Config
	// Silence is how long the other side of a control connection may send nothing; 0
	// is DefaultSilence.
	Silence time.Duration
	// IdentifyWithin bounds the time until a connection is identified; 0 is 10 s.
	IdentifyWithin time.Duration
	// Logger, if not nil, receives connections that are refused.
	Logger *slog.Logger
}

// Listener accepts the connections of a source, and identifies each before it delivers it.
type Listener struct {
	cfg      ListenerConfig
	cancel   context.CancelFunc
	running  sync.WaitGroup
	controls chan *Conn
	links    chan net.Conn

	mu       sync.Mutex
	token    Token // of the links that are accepted; zeros for none
	expected int   // the number of links still to come
}

var errUnexpected = errors.New("a link of no migration that is under way here")

// NewListener accepts from ln until ctx ends or Close is called. It owns ln.
func NewListener(ctx context.Context, ln net.Listener, cfg ListenerConfig) *Listener {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.TLS = transport.RequireTLS13(cfg.TLS)
	ctx, cancel := context.WithCancel(ctx)
	l := &Listener{cfg: cfg, cancel: cancel, controls: make(chan *Conn), links: make(chan net.Conn)}
	l.running.Go(func() {
		defer close(l.controls)
		err := transport.IdentifyEach(ctx, ln, transport.IdentifyConfig{
			Within:  cfg.IdentifyWithin,
			Refused: func(err error) { cfg.Logger.Warn("refused a connection", "error", err) },
		}, l.identify)
		if err != nil {
			cfg.Logger.Warn("no further connections can be accepted", "error", err)
		}
	})
	return l
}

// Controls delivers the control connections, which the caller closes. It is closed when
// the listener has ended.
func (l *Listener) Controls() <-chan *Conn { return l.controls }

// Links delivers the links that ExpectLinks allows.
func (l *Listener) Links() <-chan net.Conn { return l.links }

// ExpectLinks allows n links, and returns the token that they have to present.
func (l *Listener) ExpectLinks(n int) Token {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.token, l.expected = NewToken(), n
	return l.token
}

// Close ends the listening, and waits for the goroutines of the Listener.
func (l *Listener) Close() {
	l.cancel()
	l.running.Wait()
}

// takeLink tells whether a link with that token is expected, and counts it.
func (l *Listener) takeLink(token Token) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.expected == 0 || !l.token.Equal(token) {
		return false
	}
	l.expected--
	return true
}

// identify reads the preamble of a connection, and delivers the connection.
func (l *Listener) identify(ctx context.Context, conn net.Conn) error {
	from := conn.RemoteAddr()
	if l.cfg.TLS != nil {
		secure, err := transport.ServeTLS(ctx, conn, l.cfg.TLS)
		if err != nil {
			return fmt.Errorf("connection from %v: TLS: %w", from, err)
		}
		conn = secure
	}
	k, token, err := readPreamble(conn)
	if err != nil {
		return fmt.Errorf("connection from %v: %w", from, err)
	}
	if k == kindLink {
		if !l.takeLink(token) {
			return fmt.Errorf("connection from %v: %w", from, errUnexpected)
		}
		select {
		case l.links <- conn:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	c := newConn(conn, l.cfg.Silence)
	select {
	case l.controls <- c:
		return nil
	case <-ctx.Done():
		c.Close()
		return context.Cause(ctx)
	}
}
