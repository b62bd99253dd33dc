package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/multifd"
)

// identifyWithin is the default of AcceptConfig.IdentifyWithin.
const identifyWithin = 10 * time.Second

var (
	errSilent      = fmt.Errorf("not identified within %v", identifyWithin)
	errSilentAtEnd = fmt.Errorf("not identified within %v at the end of the migration", identifyAtEnd)
	errEvicted     = errors.New("not identified, and evicted by a newer connection")
)

// pendingConns are the accepted connections that are not delivered yet. Their number
// is bounded: a new connection evicts the oldest one that is not identified.
type pendingConns struct {
	mu    sync.Mutex
	limit int
	list  []*pendingConn // oldest first
	atEnd bool
}

type pendingConn struct {
	since      time.Time
	identified bool
	drop       context.CancelCauseFunc
}

// add adds a connection. The returned context ends when the connection must be
// dropped; its cause is the reason.
func (n *pendingConns) add(ctx context.Context) (context.Context, *pendingConn) {
	ctx, drop := context.WithCancelCause(ctx)
	c := &pendingConn{since: time.Now(), drop: drop}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.list) >= n.limit {
		n.evictOldestLocked()
	}
	n.list = append(n.list, c)
	if n.atEnd {
		c.limitWait()
	}
	return ctx, c
}

func (n *pendingConns) remove(c *pendingConn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.removeLocked(c)
	c.drop(nil)
}

func (n *pendingConns) removeLocked(c *pendingConn) {
	n.list = slices.DeleteFunc(n.list, func(other *pendingConn) bool { return other == c })
}

// markIdentified records that a connection is identified.
func (n *pendingConns) markIdentified(c *pendingConn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c.identified = true
}

// evictOldest drops the oldest connection, preferably one that is not identified.
func (n *pendingConns) evictOldest() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.evictOldestLocked()
}

func (n *pendingConns) evictOldestLocked() {
	if len(n.list) == 0 {
		return
	}
	oldest := n.list[0]
	if i := slices.IndexFunc(n.list, func(c *pendingConn) bool { return !c.identified }); i >= 0 {
		oldest = n.list[i]
	}
	n.removeLocked(oldest)
	oldest.drop(errEvicted)
}

// count returns the number of pending connections.
func (n *pendingConns) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.list)
}

// limitWait drops each connection, present or future, once it has been pending for
// identifyAtEnd.
func (n *pendingConns) limitWait() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.atEnd = true
	for _, c := range n.list {
		c.limitWait()
	}
}

func (c *pendingConn) limitWait() {
	time.AfterFunc(identifyAtEnd-time.Since(c.since), func() { c.drop(errSilentAtEnd) })
}

// AcceptNext accepts a connection. It retries after a transient failure, such as a
// lack of file descriptors, and calls onRetry before.
func AcceptNext(ctx context.Context, ln net.Listener, onRetry func(error)) (net.Conn, error) {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		conn, err := ln.Accept()
		if err == nil || !isTransient(err) || ctx.Err() != nil {
			return conn, err
		}
		onRetry(err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// isTransient reports whether accepting can succeed later: the error concerns the
// accepted connection, the network or a limit of this process, not the listener.
func isTransient(err error) bool {
	for _, errno := range []unix.Errno{
		unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EINTR, unix.EPERM,
		unix.ECONNABORTED, unix.ECONNRESET, unix.EPROTO, unix.ENOPROTOOPT, unix.EOPNOTSUPP,
		unix.ENETDOWN, unix.ENETUNREACH, unix.EHOSTDOWN, unix.EHOSTUNREACH, unix.ENONET,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	var temporary interface{ Temporary() bool }
	var timeout interface{ Timeout() bool }
	return errors.As(err, &temporary) && temporary.Temporary() && !(errors.As(err, &timeout) && timeout.Timeout())
}

// identify identifies a connection by its first bytes. It closes the connection if
// that fails, or if ctx ends first.
func identify(ctx context.Context, l *Link, cfg *AcceptConfig) (arrival, error) {
	within := identifyWithin
	if cfg.IdentifyWithin > 0 {
		within = cfg.IdentifyWithin
	}
	ctx, cancel := context.WithTimeoutCause(ctx, within, errSilent)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.SetDeadline(time.Unix(1, 0)) })
	c, err := readIdentity(ctx, l, cfg)
	if !stop() {
		err = context.Cause(ctx) // the deadline is set and would fail later reads
	}
	if err != nil {
		Socket(l).Close()
		return arrival{}, fmt.Errorf("connection from %v: %w", l.RemoteAddr(), err)
	}
	return c, nil
}

func readIdentity(ctx context.Context, l *Link, cfg *AcceptConfig) (arrival, error) {
	setLinkTimeout(l, cfg.LinkTimeout)
	var conn net.Conn = l
	if cfg.TLS != nil {
		t, err := ServeTLS(ctx, conn, cfg.TLS)
		if err != nil {
			return arrival{}, adviseTLS(fmt.Errorf("TLS: %w", err))
		}
		conn = t
	}
	peeked := &peekedConn{Conn: conn}
	first, err := peeked.peek(4)
	if err != nil {
		return arrival{}, fmt.Errorf("closed before it was identified: %w", err)
	}
	if cfg.TLS == nil && beginsTLS(first) {
		return arrival{}, fmt.Errorf("the peer begins a TLS handshake, and this side uses no TLS (use --tls-cert, --tls-key and --tls-ca on both sides, or --insecure on both) (%w)", multifd.ErrMalformed)
	}
	switch magic := binary.BigEndian.Uint32(first); magic {
	case qemuMagic:
		if err := checkMainHead(peeked); err != nil {
			return arrival{}, err
		}
		return arrival{conn: peeked, link: l, main: true}, nil
	case multifd.Magic:
		h, err := multifd.ReadHandshake(peeked)
		if err != nil {
			return arrival{}, err
		}
		return arrival{conn: conn, link: l, handshake: h}, nil // peeked holds no more bytes
	default:
		return arrival{}, fmt.Errorf("first bytes %q: neither a main channel nor a multifd channel (%w)", first, multifd.ErrMalformed)
	}
}

const qemuMagic = 0x5145564d

// checkMainHead checks the bytes that every source sends first: the stream's version
// and the machine type. The magic alone would not tell a source from other peers.
func checkMainHead(p *peekedConn) error {
	const fixed, version, configuration, maxName = 13, 3, 7, 255
	head, err := p.peek(fixed)
	if err != nil {
		return fmt.Errorf("the main channel ends within the header: %w", err)
	}
	if v := binary.BigEndian.Uint32(head[4:]); v != version || head[8] != configuration {
		return fmt.Errorf("the main channel has version %d and begins with section %#02x (want %d and %#02x; machine types without a configuration section are too old) (%w)", v, head[8], version, configuration, multifd.ErrMalformed)
	}
	n := binary.BigEndian.Uint32(head[9:])
	if n > maxName {
		return fmt.Errorf("the main channel has a machine type of %d bytes (want at most %d) (%w)", n, maxName, multifd.ErrMalformed)
	}
	if _, err = p.peek(fixed + int(n)); err != nil {
		return fmt.Errorf("the main channel ends within the machine type: %w", err)
	}
	return nil
}

// peekedConn is a connection whose first bytes can be peeked.
type peekedConn struct {
	net.Conn
	first []byte
}

// peek returns the next n bytes without consuming them.
func (c *peekedConn) peek(n int) ([]byte, error) {
	if have := len(c.first); have < n {
		c.first = append(c.first, make([]byte, n-have)...)
		got, err := io.ReadFull(c.Conn, c.first[have:])
		c.first = c.first[:have+got]
		if err != nil {
			return c.first, err
		}
	}
	return c.first[:n], nil
}

func (c *peekedConn) Read(p []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
