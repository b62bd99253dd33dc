//go:build !linux

package qmp

import (
	"errors"
	"fmt"
	"net"
)

// PeerCredOf needs Linux; elsewhere its error wraps errors.ErrUnsupported.
func PeerCredOf(net.Conn) (Credentials, error) {
	return Credentials{}, fmt.Errorf("qmp: credentials of the peer: %w", errors.ErrUnsupported)
}
