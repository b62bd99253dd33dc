package transport

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// adviseTLS adds to a TLS handshake error what the user can do.
func adviseTLS(err error) error {
	switch {
	case errors.As(err, new(tls.RecordHeaderError)):
		return fmt.Errorf("%w (the peer does not use TLS: both sides need --tls-cert, --tls-key and --tls-ca)", err)
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w (the peer closed the connection during the TLS handshake: check that the peer uses TLS, and read its log)", err)
	}
	return AdviseAlert(err)
}

// AdviseAlert adds to the error of a TLS alert what the user can do. A peer can send an
// alert after this side has completed the handshake. AdviseAlert returns other errors
// unchanged.
func AdviseAlert(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" { // crypto/tls: the peer sent an alert
		return fmt.Errorf("%w (the peer refuses TLS with this side; its log says why: often its --tls-ca or --tls-peer does not accept the certificate of --tls-cert)", err)
	}
	return err
}

// beginsTLS reports whether first begins a TLS handshake record.
func beginsTLS(first []byte) bool { return len(first) >= 2 && first[0] == 0x16 && first[1] == 3 }
