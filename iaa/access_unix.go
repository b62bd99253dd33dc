//go:build unix

package iaa

import "golang.org/x/sys/unix"

// access checks whether this process may read and write a file.
func access(path string) error { return unix.Access(path, unix.R_OK|unix.W_OK) }
