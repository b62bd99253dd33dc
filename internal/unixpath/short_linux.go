package unixpath

import (
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Short returns a path of at most Max bytes for the socket at path: the path itself if it
// fits, and otherwise a path through a descriptor of the socket's directory. release
// closes the descriptor; the short path does not work afterwards.
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

// Through returns the path of a file in the directory that the descriptor fd refers to.
func Through(fd int, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(fd) + "/" + name
}
