package qmp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/internal/unixpath"
)

// GreetingTimeout is how long Dial waits for QEMU to send its greeting and to
// negotiate. An earlier deadline of the context counts instead.
const GreetingTimeout = 5 * time.Second

// connect connects to the socket at path and negotiates: see Dial.
func connect(ctx context.Context, path string) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, GreetingTimeout)
	defer cancel()

	short, release, err := unixpath.Short(path)
	if err != nil {
		return nil, fmt.Errorf("qmp: connect to %s: %w", path, err)
	}
	defer release()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", short)
	if err != nil {
		return nil, fmt.Errorf("qmp: connect to %s: %w%s", path, dialError(err), dialHint(short, err))
	}
	in := bufio.NewReaderSize(conn, 64<<10)
	version, err := readGreeting(ctx, conn, in)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("qmp: %s: %w", path, err)
	}
	c := newConnection(conn, in, version)
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, fmt.Errorf("qmp: %s: negotiate: %w", path, err)
	}
	return c, nil
}

// readGreeting waits for the first message, until ctx ends.
func readGreeting(ctx context.Context, conn net.Conn, in *bufio.Reader) (Version, error) {
	var line []byte
	err := interruptible(ctx, conn.SetReadDeadline, func() (err error) {
		line, err = readLine(in, MaxMessage)
		return err
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if errors.Is(ctx.Err(), context.Canceled) {
			return Version{}, fmt.Errorf("wait for the greeting: %w", ctx.Err())
		}
		return Version{}, fmt.Errorf("%w: the socket accepts connections but stays silent; "+
			"probably another client is connected to this monitor (it serves one at a time): "+
			"disconnect it or give QEMU a second -qmp option (%w)", ErrBusy, ctx.Err())
	}
	if err != nil {
		return Version{}, fmt.Errorf("read the greeting: %w", err)
	}
	m, err := parseMessage(line)
	if err == nil && m.Greeting == nil {
		err = fmt.Errorf("%w: the first message is no greeting: %q", ErrProtocol, printable(string(line)))
	}
	if err != nil {
		return Version{}, fmt.Errorf("%w; is this the socket of a -qmp option (not of -monitor, and not the guest agent's)?", err)
	}
	v := m.Greeting.Version.QEMU
	v.Package = m.Greeting.Version.Package
	return v, nil
}

// dialError adds ErrBusy if the kernel says that the queue of connections is full:
// several clients wait already. It adds ErrNoQEMU if nothing listens.
func dialError(err error) error {
	switch {
	case errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("%w: other clients already wait for this monitor: %w", ErrBusy, err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: %w", ErrNoQEMU, err)
	}
	return err
}

func dialHint(path string, err error) string {
	if info, statErr := os.Stat(path); statErr == nil && info.Mode().Type() != fs.ModeSocket {
		return "; the file is not a socket: name the PATH of QEMU's -qmp unix:PATH,server=on,wait=off"
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "; start QEMU with -qmp unix:PATH,server=on,wait=off"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "; the socket is left over from a QEMU that has ended: start QEMU again"
	case errors.Is(err, fs.ErrPermission):
		return "; run as the user that QEMU runs as"
	}
	return ""
}

// interruptible runs f, which reads or writes a connection, and makes it
// return os.ErrDeadlineExceeded when ctx ends first. setDeadline is the
// connection's SetReadDeadline or SetWriteDeadline.
func interruptible(ctx context.Context, setDeadline func(time.Time) error, f func() error) error {
	if err := setDeadline(time.Time{}); err != nil {
		return err
	}
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		// An error means that the connection is closed, which ends f as well.
		_ = setDeadline(time.Unix(1, 0))
	})
	err := f()
	if !stop() {
		// Wait, or the late deadline would interrupt the next use of the connection.
		<-fired
	}
	if derr := setDeadline(time.Time{}); err == nil {
		err = derr
	}
	return err
}
