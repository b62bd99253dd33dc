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

// Link is one connection of a migration, observed by a Watch. It counts reads and
// writes that transferred bytes, and knows whether a read or write is blocked in it.
// Reads and writes of the descriptor (readv, writev) go through its RawConn and are
// counted too.
type Link struct {
	net.Conn
	moved atomic.Uint64 // reads and writes that transferred bytes
	reads atomic.Int32  // reads that wait for the peer to send
	sends atomic.Int32  // writes that wait for the peer to read
	// waitingForOthers is not zero while the link's user does no work of its own: it
	// waits for the user of another link, or has ended.
	waitingForOthers atomic.Int32

	failed   atomic.Pointer[error]
	ackState ackState
}

func newLink(conn net.Conn) *Link { return &Link{Conn: conn} }

// maxWrite bounds one write to a connection, so that a slow peer still counts as
// making progress.
const maxWrite = 64 << 10

func (l *Link) Read(p []byte) (int, error) {
	l.reads.Add(1)
	n, err := l.Conn.Read(p)
	l.reads.Add(-1)
	if n > 0 {
		l.moved.Add(1)
	}
	return n, l.closeReason(err)
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
			return written, l.closeReason(err)
		}
	}
}

// SyscallConn implements syscall.Conn. It returns errors.ErrUnsupported if the
// connection has no file descriptor.
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

// rawLink counts each read and write of the descriptor. The functions of its users
// return true only after bytes were transferred.
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
	return r.link.closeReason(err)
}

func (r *rawLink) Write(f func(fd uintptr) bool) error {
	r.link.sends.Add(1)
	err := r.RawConn.Write(f)
	r.link.sends.Add(-1)
	if err == nil {
		r.link.moved.Add(1)
	}
	return r.link.closeReason(err)
}

// closeWith closes the connection. Its reads and writes fail with the error why.
func (l *Link) closeWith(why error) {
	if l.failed.CompareAndSwap(nil, &why) {
		Socket(l.Conn).Close()
	}
}

func (l *Link) closeReason(err error) error {
	if err == nil {
		return nil
	}
	if why := l.failed.Load(); why != nil {
		return *why
	}
	return err
}

// Socket returns the connection below TLS. Closing that one does not block.
func Socket(conn net.Conn) net.Conn {
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

// Reset closes a connection so that the peer sees a failure, where the network has a way
// to say so, and no end of the stream.
func Reset(conn net.Conn) {
	socket := Socket(conn) // Close of a TLS connection says that the stream is complete
	if tcp, ok := socket.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	socket.Close()
}

// CloseWrite says that no more bytes follow. It does nothing if the connection has no
// way to say so, or if the peer has closed the connection.
func CloseWrite(conn net.Conn) error {
	c, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return nil
	}
	if err := c.CloseWrite(); err != nil && !errors.Is(err, unix.ENOTCONN) {
		return err
	}
	return nil
}

// CloseAll closes connections concurrently, because closing a TLS connection blocks
// for up to 5 s if the peer does not read.
func CloseAll[C net.Conn](conns []C) {
	var all sync.WaitGroup
	for _, conn := range conns {
		all.Go(func() { conn.Close() })
	}
	all.Wait()
}

// ackState tracks the segments that the kernel sends and a TCP peer does not
// acknowledge: retransmitted data, keep-alive probes and zero-window probes.
type ackState struct {
	lastAck time.Time // the last acknowledgement, at the previous check
	probes  int       // the kernel's count of unacknowledged probes at that time
	since   time.Time // when the count first exceeded probes
}

// timedOut reports whether the peer has acknowledged nothing for most of the timeout
// although this side sent probes. A peer that acknowledges but does not read is alive.
func (u *ackState) timedOut(conn net.Conn, now time.Time, timeout time.Duration) bool {
	info := tcpInfo(Socket(conn))
	if info == nil {
		return false
	}
	const imprecision = 20 * time.Millisecond // of the kernel's clock ticks
	probes := int(info.Retransmits) + int(info.Probes)
	lastAck := now.Add(-time.Duration(info.Last_ack_recv) * time.Millisecond)
	if lastAck.Sub(u.lastAck) > imprecision || probes < u.probes {
		u.lastAck, u.probes, u.since = lastAck, probes, time.Time{}
	}
	if probes == u.probes {
		return false
	}
	if u.since.IsZero() {
		u.since = now
	}
	// A live kernel answers at most one probe in 0.5 s, and a packet can be lost: a
	// single unanswered probe proves nothing.
	return probes-u.probes >= 2 && now.Sub(u.since) >= timeout-timeout/linkChecks
}

// tcpInfo returns the kernel's TCP_INFO of a connection, nil if it is not TCP.
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
