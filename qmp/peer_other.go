//go:build !linux

package qmp

import (
	"errors"
	"fmt"
	"net"
)

// PeerCred needs Linux; elsewhere it gives an error that wraps
// errors.ErrUnsupported.
func (c *Client) PeerCred() (Credentials, error) {
	return PeerCredOf(c.conn)
}

// PeerCredOf needs Linux too.
func PeerCredOf(net.Conn) (Credentials, error) {
	return Credentials{}, fmt.Errorf("qmp: credentials of the peer: %w", errors.ErrUnsupported)
}
