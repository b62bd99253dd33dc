package transport

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// queueIsEmpty reports whether the kernel has no connection of the listener that waits
// for accept. It is false if that is not known.
func queueIsEmpty(ln net.Listener) bool {
	socket, ok := ln.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	empty := false
	err = raw.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		empty = n == 0 && err == nil
	})
	return empty && err == nil
}
