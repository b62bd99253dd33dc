package relay

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/relay/linkwire"
	"github.com/vmferry/vmferry/transport"
)

// linkConn is one end of a link. Reading fails if nothing arrives for the link timeout.
// Frames of several goroutines are written one after the other.
type linkConn struct {
	net.Conn
	relay   *Relay
	timeout time.Duration

	mu      sync.Mutex // held while frames are written
	done    bool       // the last frame is written
	written atomic.Int64
}

func (r *Relay) newLinkConn(conn net.Conn) *linkConn {
	keepLittleUnsent(conn)
	return &linkConn{Conn: conn, relay: r, timeout: r.cfg.LinkTimeout}
}

// mostUnsent is how many bytes the kernel takes before it can send them. More would
// only make pages old, and hide that the link is the limit.
const mostUnsent = 256 << 10

func keepLittleUnsent(conn net.Conn) {
	tcp, ok := transport.Socket(conn).(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, mostUnsent)
		})
	}
}

// Read reads from the link, within the link timeout.
func (l *linkConn) Read(p []byte) (int, error) {
	l.Conn.SetReadDeadline(time.Now().Add(l.timeout))
	return l.Conn.Read(p)
}

// writeAll writes frames.
func (l *linkConn) writeAll(ctx context.Context, frames net.Buffers) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writeLocked(ctx, frames)
}

// writeLast writes the last frame. Frames that are written later are discarded.
func (l *linkConn) writeLast(ctx context.Context, frame []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.writeLocked(ctx, net.Buffers{frame})
	l.done = true
	return err
}

func (l *linkConn) writeLocked(ctx context.Context, frames net.Buffers) error {
	if l.done {
		return nil
	}
	if l.relay.pace != nil {
		return l.writePaced(ctx, frames)
	}
	n, err := frames.WriteTo(l.Conn)
	l.written.Add(n)
	return err
}

// writePaced writes no faster than the bandwidth of all links allows.
func (l *linkConn) writePaced(ctx context.Context, frames net.Buffers) error {
	for _, b := range frames {
		for len(b) > 0 {
			part := b[:min(len(b), paceBurst)]
			if err := l.relay.pace.WaitN(ctx, len(part)); err != nil {
				return context.Cause(ctx)
			}
			n, err := l.Conn.Write(part)
			l.written.Add(int64(n))
			if err != nil {
				return err
			}
			b = b[len(part):]
		}
	}
	return nil
}

// keepAlive writes ALIVE frames while nothing else is written, until ctx ends.
func (l *linkConn) keepAlive(ctx context.Context) {
	ticker := time.NewTicker(max(l.timeout/4, time.Millisecond))
	defer ticker.Stop()
	var before int64
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := l.written.Load()
		if now == before && l.mu.TryLock() { // a write under way shows that this side lives
			_ = l.writeLocked(ctx, net.Buffers{linkwire.AppendAlive(nil)}) // the directions notice
			l.mu.Unlock()
		}
		before = l.written.Load()
	}
}

// resetWait bounds the wait for a link that takes no RESET frame.
const resetWait = time.Second

// reset writes why the connection broke, if the link still takes it, and closes the
// link.
func (l *linkConn) reset(reason string) {
	// A write under way holds the lock.
	l.Conn.SetWriteDeadline(time.Now().Add(resetWait))
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.done {
		l.Conn.Write(linkwire.AppendReset(nil, reason))
	}
	l.done = true
	l.Conn.Close()
}
