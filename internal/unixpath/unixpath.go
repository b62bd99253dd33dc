// Package unixpath makes unix sockets usable whose path is too long for the
// kernel's socket address.
//
// It is for the packages that listen on or connect to a path of the user's choice.
//
// Trap: the short path is of this process only, and only until release is called.
// Another process needs the path itself.
package unixpath

import (
	"errors"
	"fmt"
)

// Max is how many bytes of a path fit into a socket address.
const Max = 107

// ErrTooLong is wrapped when a path cannot be made short.
var ErrTooLong = errors.New("socket path is too long")

// Check returns an error that wraps ErrTooLong if another process cannot use the
// path as a socket's. advice says what the user can do.
func Check(path, advice string) error {
	if len(path) <= Max {
		return nil
	}
	return fmt.Errorf("%w: %s has %d bytes (at most %d): %s", ErrTooLong, path, len(path), Max, advice)
}
