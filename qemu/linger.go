package qemu

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// lingerListener accepts QEMU's connections. A connection that is closed here stays
// open for QEMU, and what QEMU still sends is read and dropped, until release.
//
// A QEMU 10.0 that loses a multifd channel while it waits for its channels at a sync
// point can wait for ever: its migration stays "cancelling" and none can be started
// again. So a save that fails lets QEMU end the migration before it loses a
// connection.
type lingerListener struct {
	*net.UnixListener
	guard *Guard // holds the connections too; nil without one

	mu    sync.Mutex
	conns []net.Conn // closed here, and open for QEMU
	drain sync.WaitGroup
}

// Accept accepts a connection that lingers.
func (l *lingerListener) Accept() (net.Conn, error) {
	conn, err := l.UnixListener.AcceptUnix()
	if err != nil {
		return nil, err
	}
	if l.guard != nil {
		if err := l.guard.hold(conn); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return &lingerConn{UnixConn: conn, l: l}, nil
}

// release closes the connections for QEMU too.
func (l *lingerListener) release() {
	l.mu.Lock()
	for _, conn := range l.conns {
		conn.Close()
	}
	l.conns = nil
	l.mu.Unlock()
	l.drain.Wait()
}

// lingerConn is one of the listener's connections.
type lingerConn struct {
	*net.UnixConn
	l    *lingerListener
	once sync.Once
}

// Close ends all reading and writing here.
func (c *lingerConn) Close() error {
	var err error
	c.once.Do(func() {
		again, dupErr := c.duplicate()
		err = errors.Join(dupErr, c.UnixConn.Close())
		if dupErr == nil {
			c.l.keep(again)
		}
	})
	return err
}

// duplicate returns the connection by another descriptor.
func (c *lingerConn) duplicate() (net.Conn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, fdErr := -1, error(nil)
	if err := raw.Control(func(is uintptr) { fd, fdErr = unix.FcntlInt(is, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if fdErr != nil {
		return nil, fmt.Errorf("keeping QEMU's connection open: %w", fdErr)
	}
	file := os.NewFile(uintptr(fd), "connection of QEMU")
	defer file.Close()
	return net.FileConn(file)
}

// keep reads a connection until QEMU or release closes it.
func (l *lingerListener) keep(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, conn)
	l.drain.Go(func() { io.Copy(io.Discard, conn) })
}
