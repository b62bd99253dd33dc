package qmp

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// PeerCred tells which process made the socket that the client is connected
// to. The kernel records this when the socket is put to listen: if QEMU was
// handed a socket that is listening already (libvirt does this), it is the
// one who made it that is named.
func (c *Client) PeerCred() (Credentials, error) {
	return PeerCredOf(c.conn)
}

// PeerCredOf is [Client.PeerCred] of any connection over a unix socket.
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
