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

// identifyWithin is how long a connection may take to say what it is, TLS
// included.
const identifyWithin = 10 * time.Second

var (
	errSilent    = fmt.Errorf("it did not say what it is within %v", identifyWithin)
	errHurried   = fmt.Errorf("it did not say what it is within %v, and the migration is at its end", identifyAtEnd)
	errDisplaced = errors.New("it did not say what it is, and a newer connection needed its place")
)

// newcomers are the connections that have not been taken in yet. There are only
// so many of them: where one more comes, the oldest that has not said what it is
// has to go.
type newcomers struct {
	mu      sync.Mutex
	most    int
	list    []*newcomer // oldest first
	hurried bool
}

type newcomer struct {
	since time.Time
	known bool
	drop  context.CancelCauseFunc
}

// add takes a connection in. The context that it returns ends when the connection
// is to be dropped, with the reason as its cause.
func (n *newcomers) add(ctx context.Context) (context.Context, *newcomer) {
	ctx, drop := context.WithCancelCause(ctx)
	c := &newcomer{since: time.Now(), drop: drop}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.list) >= n.most {
		n.dropOldest()
	}
	n.list = append(n.list, c)
	if n.hurried {
		c.hurry()
	}
	return ctx, c
}

func (n *newcomers) remove(c *newcomer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.forget(c)
	c.drop(nil)
}

func (n *newcomers) forget(c *newcomer) {
	n.list = slices.DeleteFunc(n.list, func(other *newcomer) bool { return other == c })
}

// identified says that a connection has said what it is.
func (n *newcomers) identified(c *newcomer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c.known = true
}

// makeRoom drops the oldest.
func (n *newcomers) makeRoom() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dropOldest()
}

func (n *newcomers) dropOldest() {
	if len(n.list) == 0 {
		return
	}
	oldest := n.list[0]
	if i := slices.IndexFunc(n.list, func(c *newcomer) bool { return !c.known }); i >= 0 {
		oldest = n.list[i]
	}
	n.forget(oldest)
	oldest.drop(errDisplaced)
}

// count returns how many there are.
func (n *newcomers) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.list)
}

// hurry drops each that is here for identifyAtEnd or longer, and the others when
// they are.
func (n *newcomers) hurry() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hurried = true
	for _, c := range n.list {
		c.hurry()
	}
}

func (c *newcomer) hurry() {
	time.AfterFunc(identifyAtEnd-time.Since(c.since), func() { c.drop(errHurried) })
}

// acceptNext accepts a connection. A failure that passes, such as the want of
// descriptors, is waited out; busy is told of it.
func acceptNext(ctx context.Context, ln net.Listener, busy func(error)) (net.Conn, error) {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		conn, err := ln.Accept()
		if err == nil || !passes(err) || ctx.Err() != nil {
			return conn, err
		}
		busy(err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// passes says whether an error of accepting is not one of the listener: of the
// connection that came, of the network below, or of this process's limits.
func passes(err error) bool {
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

// identify finds out what a connection is by its first bytes. The connection is
// closed when that fails, or ctx ends first.
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
		err = context.Cause(ctx) // the deadline would end what comes, too
	}
	if err != nil {
		socketOf(l).Close()
		return arrival{}, fmt.Errorf("a connection from %v: %w", l.RemoteAddr(), err)
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
		return arrival{}, fmt.Errorf("closed before it said what it is: %w", err)
	}
	if cfg.TLS == nil && beginsTLS(first) {
		return arrival{}, fmt.Errorf("it begins with a TLS handshake, and this side uses no TLS (use --tls-cert, --tls-key and --tls-ca on both sides, or --insecure on both) (%w)", multifd.ErrMalformed)
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
		return arrival{conn: conn, link: l, handshake: h}, nil // all that was peeked is read
	default:
		return arrival{}, fmt.Errorf("it begins with %q, which is neither a migration's main channel nor a multifd channel (%w)", first, multifd.ErrMalformed)
	}
}

const qemuMagic = 0x5145564d

// checkMainHead looks at what every source sends at once: the stream's version
// and the machine's name. Four right bytes alone would let anything through that
// can send them.
func checkMainHead(p *peekedConn) error {
	const fixed, version, configuration, maxName = 13, 3, 7, 255
	head, err := p.peek(fixed)
	if err != nil {
		return fmt.Errorf("its main channel ends within the header: %w", err)
	}
	if v := binary.BigEndian.Uint32(head[4:]); v != version || head[8] != configuration {
		return fmt.Errorf("its main channel has version %d and begins with section %#02x (want %d and %#02x; machine types that leave the configuration out are too old) (%w)", v, head[8], version, configuration, multifd.ErrMalformed)
	}
	n := binary.BigEndian.Uint32(head[9:])
	if n > maxName {
		return fmt.Errorf("its main channel has a machine name of %d bytes (want %d at most) (%w)", n, maxName, multifd.ErrMalformed)
	}
	if _, err = p.peek(fixed + int(n)); err != nil {
		return fmt.Errorf("its main channel ends within the machine's name: %w", err)
	}
	return nil
}

// peekedConn gives bytes that were read too early once more.
type peekedConn struct {
	net.Conn
	first []byte
}

// peek returns the first n bytes that were not read yet.
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
