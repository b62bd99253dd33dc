package qemu

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// guardSocket is the descriptor by which a guard is handed connections: the first
// after the standard ones.
const guardSocket = 3

// socketPair makes a connection between this process and its guard.
func socketPair() (mine *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("connection to the guard process: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "guard")
	mine, err = unixConnOf(fds[0])
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return mine, theirs, nil
}

// unixConnOf takes a descriptor over.
func unixConnOf(fd int) (*net.UnixConn, error) {
	file := os.NewFile(uintptr(fd), "socket")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// hold makes the guard hold a connection of QEMU's too, so that QEMU does not lose it
// when this process is killed: see lingerListener.
func (g *Guard) hold(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var handErr error
	if err := raw.Control(func(fd uintptr) {
		_, _, handErr = g.conns.WriteMsgUnix([]byte{0}, unix.UnixRights(int(fd)), nil)
	}); err != nil {
		return err
	}
	if handErr != nil {
		return fmt.Errorf("handing a connection to the guard process: %w", handErr)
	}
	return nil
}

// heldConns are the connections that a guard was handed.
type heldConns struct {
	reading sync.WaitGroup
	conns   []net.Conn
	drained sync.WaitGroup
}

// holdConns takes the connections that come by the socket, until its other end is
// closed.
func holdConns(socket *net.UnixConn) *heldConns {
	h := new(heldConns)
	h.reading.Go(func() {
		defer socket.Close()
		rights := make([]byte, unix.CmsgSpace(4))
		for {
			_, n, _, _, err := socket.ReadMsgUnix(make([]byte, 1), rights)
			if err != nil {
				return
			}
			h.add(rights[:n])
		}
	})
	return h
}

func (h *heldConns) add(rights []byte) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if conn, err := unixConnOf(fd); err == nil {
				h.conns = append(h.conns, conn)
			}
		}
	}
}

// drain reads what still comes on the connections. The process that handed them over
// has ended.
func (h *heldConns) drain() {
	h.reading.Wait()
	for _, conn := range h.conns {
		h.drained.Go(func() { io.Copy(io.Discard, conn) })
	}
}

func (h *heldConns) close() {
	for _, conn := range h.conns {
		conn.Close()
	}
	h.drained.Wait()
}
