// Package unixpath shortens paths of unix sockets that are too long for the kernel's
// socket address.
//
// It is for packages that listen on, or connect to, a path of the user's choice.
//
// Trap: the short path works in this process only, and only until release is called.
// Another process needs the long path.
package unixpath

import (
	"errors"
	"fmt"
)

// Max is the number of bytes that a path may have in a socket address.
const Max = 107

// ErrTooLong is wrapped by errors about a path that cannot be shortened.
var ErrTooLong = errors.New("socket path is too long")

// Check returns an error that wraps ErrTooLong if the path is too long for a socket of
// another process. advice says what the user can do.
func Check(path, advice string) error {
	if len(path) <= Max {
		return nil
	}
	return fmt.Errorf("%w: %s has %d bytes (at most %d): %s", ErrTooLong, path, len(path), Max, advice)
}
