package transport

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Link is one connection of a migration, which a watch looks at: it counts what
// moves, and knows whether its user waits in it. Reads and writes of the
// descriptor (readv, writev) go through its RawConn, so that they count too.
type Link struct {
	net.Conn
	moved atomic.Uint64 // reads and writes that moved something
	reads atomic.Int32  // how many wait for the peer to send
	sends atomic.Int32  // how many wait for the peer to read
	// aside counts the reasons why the link's user needs nothing of this side's
	// own work: the user waits for another link's, or has ended.
	aside atomic.Int32

	failed atomic.Pointer[error]
	acks   unanswered
}

func newLink(conn net.Conn) *Link { return &Link{Conn: conn} }

// maxWrite is the most that one write to a connection gets, so that a slow peer
// shows as one that moves.
const maxWrite = 64 << 10

func (l *Link) Read(p []byte) (int, error) {
	l.reads.Add(1)
	n, err := l.Conn.Read(p)
	l.reads.Add(-1)
	if n > 0 {
		l.moved.Add(1)
	}
	return n, l.explain(err)
}

func (l *Link) Write(p []byte) (written int, err error) {
	for {
		part := p[written:min(len(p), written+maxWrite)]
		l.sends.Add(1)
		n, err := l.Conn.Write(part)
		l.sends.Add(-1)
		written += n
		if n > 0 {
			l.moved.Add(1)
		}
		if err != nil || written == len(p) {
			return written, l.explain(err)
		}
	}
}

// SyscallConn gives the descriptor, if the connection has one.
func (l *Link) SyscallConn() (syscall.RawConn, error) {
	sc, ok := l.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &rawLink{RawConn: raw, link: l}, nil
}

// rawLink counts each read and write of the descriptor. Its users return from
// one when something moved.
type rawLink struct {
	syscall.RawConn
	link *Link
}

func (r *rawLink) Read(f func(fd uintptr) bool) error {
	r.link.reads.Add(1)
	err := r.RawConn.Read(f)
	r.link.reads.Add(-1)
	if err == nil {
		r.link.moved.Add(1)
	}
	return r.link.explain(err)
}

func (r *rawLink) Write(f func(fd uintptr) bool) error {
	r.link.sends.Add(1)
	err := r.RawConn.Write(f)
	r.link.sends.Add(-1)
	if err == nil {
		r.link.moved.Add(1)
	}
	return r.link.explain(err)
}

// fail closes the connection. Who reads or writes gets why.
func (l *Link) fail(why error) {
	if l.failed.CompareAndSwap(nil, &why) {
		socketOf(l.Conn).Close()
	}
}

func (l *Link) explain(err error) error {
	if err == nil {
		return nil
	}
	if why := l.failed.Load(); why != nil {
		return *why
	}
	return err
}

// socketOf returns the connection below TLS, whose closing waits for nobody.
func socketOf(conn net.Conn) net.Conn {
	for {
		switch c := conn.(type) {
		case *Link:
			conn = c.Conn
		case *peekedConn:
			conn = c.Conn
		case *tls.Conn:
			conn = c.NetConn()
		default:
			return conn
		}
	}
}

// CloseAll closes connections side by side: TLS takes leave of a peer that does
// not read for 5 s.
func CloseAll[C net.Conn](conns []C) {
	var all sync.WaitGroup
	for _, conn := range conns {
		all.Go(func() { conn.Close() })
	}
	all.Wait()
}

// unanswered is what a TCP peer leaves unanswered that the kernel sends again: data,
// or the question whether the peer is there or reads again.
type unanswered struct {
	heard time.Time // when the last acknowledgement came, by the last look
	asked int       // the kernel's count at that time
	since time.Time // since when there has been more than that
}

// dead says whether the peer has acknowledged nothing for most of the timeout
// while this side asked. A peer that does not read, but acknowledges, is alive.
func (u *unanswered) dead(conn net.Conn, now time.Time, timeout time.Duration) bool {
	info := tcpInfo(socketOf(conn))
	if info == nil {
		return false
	}
	const imprecise = 20 * time.Millisecond // of the kernel's clock ticks
	asked := int(info.Retransmits) + int(info.Probes)
	heard := now.Add(-time.Duration(info.Last_ack_recv) * time.Millisecond)
	if heard.Sub(u.heard) > imprecise || asked < u.asked {
		u.heard, u.asked, u.since = heard, asked, time.Time{}
	}
	if asked == u.asked {
		return false
	}
	if u.since.IsZero() {
		u.since = now
	}
	// The kernel of a peer that is alive leaves one question in half a second
	// unanswered, and a packet can be lost: one alone says nothing.
	return asked-u.asked >= 2 && now.Sub(u.since) >= timeout-timeout/linkLooks
}

// tcpInfo is what the kernel says of a TCP connection, nil of another one.
func tcpInfo(conn net.Conn) *unix.TCPInfo {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	var info *unix.TCPInfo
	raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if err != nil {
		return nil
	}
	return info
}
