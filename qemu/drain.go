package qemu

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/transport"
)

// drainer keeps the sockets of a migration open after this process has finished with
// them. Until close, it reads what QEMU still sends and discards it.
//
// QEMU 10.0 can wait forever if it loses a multifd channel while it waits for its
// channels at a sync point: the migration stays "cancelling", and QEMU starts no other
// one. So a connection is closed only after QEMU has ended the migration. QEMU also
// waits for the end of its return path: the drainer shuts down the direction to QEMU.
type drainer struct {
	mu      sync.Mutex
	closed  bool
	sockets []io.Closer
	running sync.WaitGroup
}

// take takes over a socket: a connection, or a listener whose connections are not
// accepted yet.
func (d *drainer) take(fd int) error {
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("keeping a socket of QEMU open: %w", err)
	}
	file := os.NewFile(uintptr(fd), "socket of QEMU")
	defer file.Close()
	if listens == 0 {
		conn, err := net.FileConn(file)
		if err != nil {
			return fmt.Errorf("keeping QEMU's connection open: %w", err)
		}
		d.drain(conn)
		return nil
	}
	ln, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("keeping QEMU's socket open: %w", err)
	}
	if unixListener, ok := ln.(*net.UnixListener); ok {
		unixListener.SetUnlinkOnClose(false)
	}
	d.keep(ln, func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			d.drain(conn)
		}
	})
	return nil
}

func (d *drainer) drain(conn net.Conn) {
	_ = transport.CloseWrite(conn) // the reading shows what became of it
	d.keep(conn, func() { io.Copy(io.Discard, conn) })
}

// keep runs f, which ends when the socket is closed.
func (d *drainer) keep(socket io.Closer, f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		socket.Close()
		return
	}
	d.sockets = append(d.sockets, socket)
	d.running.Go(f)
}

func (d *drainer) close() {
	d.mu.Lock()
	d.closed = true
	for _, s := range d.sockets {
		s.Close()
	}
	d.mu.Unlock()
	d.running.Wait()
}

// duplicate returns a second descriptor of a socket.
func duplicate(socket syscall.Conn) (int, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, dupErr := -1, error(nil)
	err = raw.Control(func(is uintptr) { fd, dupErr = unix.FcntlInt(is, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(err, dupErr); err != nil {
		return -1, fmt.Errorf("keeping a socket of QEMU open: %w", err)
	}
	return fd, nil
}

// lingerListener accepts QEMU's connections. Close of the listener or of a connection
// ends its use in this process; for QEMU the socket stays open until release.
type lingerListener struct {
	*net.UnixListener
	guard *Guard // holds duplicates of the sockets; nil without a guard
	later drainer
	once  sync.Once
}

// lingerOn makes a lingerListener of a listener.
func lingerOn(ln *net.UnixListener, guard *Guard) (*lingerListener, error) {
	if guard != nil {
		if err := guard.sendSocket(ln); err != nil {
			ln.Close()
			return nil, err
		}
	}
	return &lingerListener{UnixListener: ln, guard: guard}, nil
}

// Accept returns a connection that stays open for QEMU when it is closed here.
func (l *lingerListener) Accept() (net.Conn, error) {
	conn, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	if l.guard != nil {
		if err := l.guard.sendSocket(conn); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return &lingerConn{UnixConn: conn, l: l}, nil
}

// Close ends the accepting in this process.
func (l *lingerListener) Close() error {
	var err error
	l.once.Do(func() { err = l.linger(l.UnixListener, l.UnixListener.Close) })
	return err
}

// linger closes a socket in this process and keeps a duplicate open for QEMU.
func (l *lingerListener) linger(socket syscall.Conn, closeHere func() error) error {
	fd, err := duplicate(socket)
	closeErr := closeHere()
	if err == nil {
		err = l.later.take(fd)
	}
	return errors.Join(err, closeErr)
}

// release closes the duplicates: QEMU sees the sockets closed.
func (l *lingerListener) release() { l.later.close() }

// lingerConn is a connection of a lingerListener.
type lingerConn struct {
	*net.UnixConn
	l    *lingerListener
	once sync.Once
}

// Close ends all reading and writing in this process.
func (c *lingerConn) Close() error {
	var err error
	c.once.Do(func() { err = c.l.linger(c.UnixConn, c.UnixConn.Close) })
	return err
}
