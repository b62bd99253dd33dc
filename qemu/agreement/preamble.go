package agreement

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"net"
)

// Token identifies a migration to the destination that made the token.
type Token [16]byte

// NewToken returns a random token.
func NewToken() (t Token) {
	rand.Read(t[:]) // never fails
	return t
}

// MarshalText writes hexadecimal digits.
func (t Token) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, t[:]), nil }

// UnmarshalText reads what MarshalText writes.
func (t *Token) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(t)) {
		return fmt.Errorf("token of %d characters (want %d)", len(text), hex.EncodedLen(len(t)))
	}
	_, err := hex.Decode(t[:], text)
	return err
}

// Equal compares in constant time.
func (t Token) Equal(other Token) bool { return subtle.ConstantTimeCompare(t[:], other[:]) == 1 }

// magic is "vmferry" and the version of the protocol.
const magic = "vmferry\x01"

// kind is the kind of a connection.
type kind byte

const (
	kindControl kind = 1
	kindLink    kind = 2
)

const preambleSize = len(magic) + 1 + len(Token{})

func writePreamble(w io.Writer, k kind, token Token) error {
	b := append([]byte(magic), byte(k))
	_, err := w.Write(append(b, token[:]...))
	return err
}

// readPreamble reads a preamble and nothing after it.
func readPreamble(r io.Reader) (k kind, token Token, err error) {
	var b [preambleSize]byte
	if n, err := io.ReadFull(r, b[:]); err != nil {
		if n >= 2 && b[0] == 0x16 && b[1] == 3 {
			return 0, token, fmt.Errorf("%w: the peer begins a TLS handshake, and this side uses no TLS (use TLS on both sides, or --insecure on both)", ErrMalformed)
		}
		return 0, token, fmt.Errorf("closed before it was identified: %w", err)
	}
	switch {
	case b[0] == 0x16 && b[1] == 3:
		return 0, token, fmt.Errorf("%w: the peer begins a TLS handshake, and this side uses no TLS (use TLS on both sides, or --insecure on both)", ErrMalformed)
	case string(b[:len(magic)-1]) != magic[:len(magic)-1]:
		return 0, token, fmt.Errorf("%w: first bytes %q: not a vmferry (connect \"vmferry migrate\", not QEMU)", ErrMalformed, b[:8])
	case b[len(magic)-1] != magic[len(magic)-1]:
		return 0, token, fmt.Errorf("%w: version %d of the protocol (want %d: use the same vmferry on both sides)", ErrMalformed, b[len(magic)-1], magic[len(magic)-1])
	}
	k = kind(b[len(magic)])
	copy(token[:], b[len(magic)+1:])
	if k != kindControl && k != kindLink {
		return 0, token, fmt.Errorf("%w: connection of the kind %d", ErrMalformed, k)
	}
	return k, token, nil
}

// OpenLink begins a link on a new connection. The link belongs to the migration of that
// token. After that the bytes are package relay's.
func OpenLink(conn net.Conn, token Token) error { return writePreamble(conn, kindLink, token) }
