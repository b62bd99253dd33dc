package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/internal/unixpath"
)

// unixListener listens on a socket that it made, and removes that one when it is
// closed, not what another process may have put in its place since.
type unixListener struct {
	*net.UnixListener
	path   string // short, see unixpath
	forget func() // ends the use of path
	made   os.FileInfo
	once   sync.Once
}

// umask is held while the process's mask is changed.
var umask sync.Mutex

// listenUnix listens on a socket that only its owner can open. The path may be longer
// than a socket's address.
func listenUnix(ctx context.Context, path string) (_ net.Listener, err error) {
	short, release, err := unixpath.Short(path)
	if err != nil {
		return nil, err
	}
	l := &unixListener{path: short, forget: release}
	defer func() {
		if err != nil {
			l.forget()
		}
	}()
	if err := removeStale(short, path); err != nil {
		return nil, err
	}
	ln, err := listenPrivately(ctx, short)
	if err != nil {
		return nil, err
	}
	l.UnixListener = ln.(*net.UnixListener)
	l.SetUnlinkOnClose(false)
	if l.made, err = os.Lstat(short); err != nil {
		ln.Close()
		return nil, err
	}
	return l, nil
}

// listenPrivately makes the socket with the mode 0600: between bind and chmod any
// user could connect. The mask is the whole process's, so it is changed for a moment
// only.
func listenPrivately(ctx context.Context, path string) (net.Listener, error) {
	umask.Lock()
	defer umask.Unlock()
	defer unix.Umask(unix.Umask(0o177))
	var lc net.ListenConfig
	return lc.Listen(ctx, "unix", path)
}

// Close ends the listening and removes the socket.
func (l *unixListener) Close() error {
	err := l.UnixListener.Close()
	l.once.Do(func() {
		if is, statErr := os.Lstat(l.path); statErr == nil && os.SameFile(is, l.made) {
			err = errors.Join(err, os.Remove(l.path))
		}
		l.forget()
	})
	return err
}

// removeStale removes a socket that nobody listens on any more. path is what the user
// calls it.
func removeStale(short, path string) error {
	info, err := os.Lstat(short)
	if err != nil {
		return nil // not there, or the listening says what is wrong
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%w unix:%s: a file of that name exists and is not a socket", ErrAddress, path)
	}
	conn, err := net.DialTimeout("unix", short, time.Second)
	if err == nil {
		conn.Close()
		return fmt.Errorf("%w unix:%s: another process listens there", ErrAddress, path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("%w unix:%s: a socket of that name exists: %w", ErrAddress, path, err)
	}
	return os.Remove(short)
}

// dialUnix connects to a socket whose path may be longer than a socket's address.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	short, release, err := unixpath.Short(path)
	if err != nil {
		return nil, err
	}
	defer release()
	var d net.Dialer
	return d.DialContext(ctx, "unix", short)
}
