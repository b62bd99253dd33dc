package transport

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// adviseTLS adds to an error of a TLS handshake what the user can do.
func adviseTLS(err error) error {
	switch {
	case errors.As(err, new(tls.RecordHeaderError)):
		return fmt.Errorf("%w (the other side does not use TLS: both sides need --tls-cert, --tls-key and --tls-ca)", err)
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w (the other side closed the connection during the TLS handshake: it may not use TLS, and its log may say why)", err)
	}
	return AdviseAlert(err)
}

// AdviseAlert adds to the error of a TLS alert, which a peer can send when the handshake
// is over on this side, what the user can do. It returns other errors as they are.
func AdviseAlert(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" { // crypto/tls: the peer sent an alert
		return fmt.Errorf("%w (the other side refuses TLS with this side; its log says why: often it does not accept the certificate of --tls-cert, by its --tls-ca or --tls-peer)", err)
	}
	return err
}

// beginsTLS tells whether a connection begins with a TLS handshake record.
func beginsTLS(first []byte) bool { return len(first) >= 2 && first[0] == 0x16 && first[1] == 3 }
