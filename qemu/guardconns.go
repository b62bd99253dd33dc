package qemu

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// guardSocket is the descriptor over which a guard receives QEMU's sockets: the first
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

// unixConnOf makes a connection of a descriptor, and takes ownership of the descriptor.
func unixConnOf(fd int) (*net.UnixConn, error) {
	file := os.NewFile(uintptr(fd), "socket")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// sendSocket sends the guard a duplicate of a socket, so that the socket stays open for QEMU
// when this process is killed: see drainer.
func (g *Guard) sendSocket(socket syscall.Conn) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var handErr error
	err = raw.Control(func(fd uintptr) {
		_, _, handErr = g.conns.WriteMsgUnix([]byte{0}, unix.UnixRights(int(fd)), nil)
	})
	if err := errors.Join(err, handErr); err != nil {
		return fmt.Errorf("sending a socket to the guard process: %v (was it killed?)", err)
	}
	return nil
}

// heldSockets are the sockets that a guard has received.
type heldSockets struct {
	reading sync.WaitGroup
	fds     []int
	later   drainer
}

// holdSockets receives sockets over conn until the other end of conn is closed.
func holdSockets(conn *net.UnixConn) *heldSockets {
	h := new(heldSockets)
	h.reading.Go(func() {
		defer conn.Close()
		rights := make([]byte, unix.CmsgSpace(4))
		for {
			_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 1), rights)
			if err != nil {
				return
			}
			h.add(rights[:n])
		}
	})
	return h
}

func (h *heldSockets) add(rights []byte) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			h.fds = append(h.fds, fds...)
		}
	}
}

// drain reads and discards what QEMU still sends, after the process that sent the
// sockets has ended.
func (h *heldSockets) drain() error {
	h.reading.Wait()
	var err error
	for _, fd := range h.fds {
		err = errors.Join(err, h.later.take(fd))
	}
	return err
}

func (h *heldSockets) close() { h.later.close() }
