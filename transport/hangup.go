package transport

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// hungUp says that the other side of a connection will write no more. What it
// wrote before may still be unread. There is no telling of a connection that gives
// no syscall.Conn.
func hungUp(conn net.Conn) bool {
	sc, ok := socketOf(conn).(syscall.Conn)
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
