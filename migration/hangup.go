package migration

import (
	"crypto/tls"
	"net"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// hungUp says that the other side of a connection will write no more. What it
// wrote before may still be unread.
func hungUp(conn net.Conn) bool {
	switch c := conn.(type) {
	case *peekedConn:
		return hungUp(c.Conn)
	case *tls.Conn:
		return hungUp(c.NetConn())
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true // it is closed here
	}
	const gone = unix.POLLRDHUP | unix.POLLHUP | unix.POLLERR
	poll := []unix.PollFd{{Events: unix.POLLRDHUP}}
	if raw.Control(func(fd uintptr) {
		poll[0].Fd = int32(fd)
		unix.Poll(poll, 0)
	}) != nil {
		return true
	}
	return poll[0].Revents&gone != 0
}

// dropDead closes and forgets connections that a source made and gave up, so
// that the next one can be heard.
func (c *connections) dropDead() {
	if c.main != nil && hungUp(c.main) {
		c.main.Close()
		c.main = nil
	}
	c.hasUUID = false
	for i, conn := range c.channels {
		switch {
		case conn == nil:
		case hungUp(conn):
			conn.Close()
			c.channels[i] = nil
		default:
			c.hasUUID = true // of those that are left
		}
	}
}

// anyDead says whether the source has hung up on one of them.
func (c *connections) anyDead() bool {
	return slices.ContainsFunc(append([]net.Conn{c.main}, c.channels...), func(conn net.Conn) bool { return conn != nil && hungUp(conn) })
}

// count returns how many there are.
func (c *connections) count() (n int) {
	for _, conn := range append([]net.Conn{c.main}, c.channels...) {
		if conn != nil {
			n++
		}
	}
	return n
}
