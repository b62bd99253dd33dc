package qmp

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// PeerCredOf returns the process that made the unix socket at the other end of a
// connection. The kernel records the process when the socket begins to listen.
//
// Trap: if QEMU got a socket that was listening already, as from libvirt, the
// process is the one that made the socket, not QEMU.
func PeerCredOf(c net.Conn) (Credentials, error) {
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return Credentials{}, fmt.Errorf("qmp: credentials of the peer: %T is no unix socket", c)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return Credentials{}, fmt.Errorf("qmp: credentials of the peer: %w", err)
	}
	var cred *unix.Ucred
	var sockErr error
	err = raw.Control(func(fd uintptr) {
		cred, sockErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, sockErr); err != nil {
		return Credentials{}, fmt.Errorf("qmp: credentials of the peer: %w", err)
	}
	return Credentials{PID: int(cred.Pid), UID: int(cred.Uid), GID: int(cred.Gid)}, nil
}
