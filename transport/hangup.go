package transport

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// peerClosed reports whether the peer has closed the connection for writing. Earlier
// bytes may still be unread. It is false for a connection that is no syscall.Conn.
func peerClosed(conn net.Conn) bool {
	sc, ok := Socket(conn).(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true // closed by this side
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
