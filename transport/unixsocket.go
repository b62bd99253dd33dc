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

// unixListener listens on a socket that it created. Close removes that socket only,
// not a file that another process has created at the path since.
type unixListener struct {
	*net.UnixListener
	path        string // short, see package unixpath
	releasePath func() // ends the use of path
	created     os.FileInfo
	once        sync.Once
}

// umaskMu is held while the process's umask is changed.
var umaskMu sync.Mutex

// listenUnix listens on a socket of mode 0600. The path may be longer than a socket
// address.
func listenUnix(ctx context.Context, path string) (_ net.Listener, err error) {
	short, release, err := unixpath.Short(path)
	if err != nil {
		return nil, err
	}
	l := &unixListener{path: short, releasePath: release}
	defer func() {
		if err != nil {
			l.releasePath()
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
	if l.created, err = os.Lstat(short); err != nil {
		ln.Close()
		return nil, err
	}
	return l, nil
}

// listenPrivately creates the socket with mode 0600 by the umask, because any user
// could connect between bind and chmod. The umask applies to the whole process, so it
// is changed only for the call.
func listenPrivately(ctx context.Context, path string) (net.Listener, error) {
	umaskMu.Lock()
	defer umaskMu.Unlock()
	defer unix.Umask(unix.Umask(0o177))
	var lc net.ListenConfig
	return lc.Listen(ctx, "unix", path)
}

// Close stops listening and removes the socket.
func (l *unixListener) Close() error {
	err := l.UnixListener.Close()
	l.once.Do(func() {
		if current, statErr := os.Lstat(l.path); statErr == nil && os.SameFile(current, l.created) {
			err = errors.Join(err, os.Remove(l.path))
		}
		l.releasePath()
	})
	return err
}

// removeStale removes a socket on which no process listens. path is the user's name
// for it.
func removeStale(short, path string) error {
	info, err := os.Lstat(short)
	if err != nil {
		return nil // does not exist, or listening fails with the reason
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

// dialUnix connects to a socket whose path may be longer than a socket address.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	short, release, err := unixpath.Short(path)
	if err != nil {
		return nil, err
	}
	defer release()
	var d net.Dialer
	return d.DialContext(ctx, "unix", short)
}
