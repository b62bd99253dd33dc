// Package unixpath makes unix sockets usable whose path is too long for the
// kernel's socket address.
//
// It is for the packages that listen on or connect to a path of the user's choice.
//
// Trap: the short path is of this process only, and only until release is called.
// Another process has to be told the path itself.
package unixpath

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Max is how many bytes of a path fit into a socket address.
const Max = 107

// ErrTooLong is wrapped when a path cannot be made short.
var ErrTooLong = errors.New("socket path is too long")

// Short returns a path of at most Max bytes for the socket at path: the path itself
// if it fits, and otherwise one that goes through a descriptor of the socket's
// directory. release frees the descriptor; the short path does not work afterwards.
func Short(path string) (short string, release func(), err error) {
	if len(path) <= Max {
		return path, func() {}, nil
	}
	dir, name := filepath.Split(path)
	fd, err := unix.Open(filepath.Clean(dir), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("directory of the socket %s: %w", path, err)
	}
	short = Through(fd, name)
	if len(short) > Max {
		unix.Close(fd)
		return "", nil, fmt.Errorf("%w: the file name %q has %d bytes (at most %d)", ErrTooLong, name, len(name), Max-len(Through(fd, "")))
	}
	return short, func() { unix.Close(fd) }, nil
}

// Through returns the path of a file in the directory that fd is open on.
func Through(fd int, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(fd) + "/" + name
}

// Check returns an error that wraps ErrTooLong if another process cannot use the
// path as a socket's. advice says what the user can do.
func Check(path, advice string) error {
	if len(path) <= Max {
		return nil
	}
	return fmt.Errorf("%w: %s has %d bytes (at most %d): %s", ErrTooLong, path, len(path), Max, advice)
}
