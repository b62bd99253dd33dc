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

// hold makes the guard hold a socket of QEMU's too, so that QEMU does not lose it when
// this process is killed: see drainer.
func (g *Guard) hold(socket syscall.Conn) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var handErr error
	err = raw.Control(func(fd uintptr) {
		_, _, handErr = g.conns.WriteMsgUnix([]byte{0}, unix.UnixRights(int(fd)), nil)
	})
	if err := errors.Join(err, handErr); err != nil {
		return fmt.Errorf("handing a socket to the guard process: %v (was it killed?)", err)
	}
	return nil
}

// heldSockets are those that a guard was handed.
type heldSockets struct {
	reading sync.WaitGroup
	fds     []int
	later   drainer
}

// holdSockets takes the sockets that come by conn, until its other end is closed.
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

// drain reads what still comes. The process that handed the sockets over has ended.
func (h *heldSockets) drain() error {
	h.reading.Wait()
	var err error
	for _, fd := range h.fds {
		err = errors.Join(err, h.later.take(fd))
	}
	return err
}

func (h *heldSockets) close() { h.later.close() }
