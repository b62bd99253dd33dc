package transport_test

import (
	"errors"
	"testing"

	"github.com/vmferry/vmferry/transport"
)

// An Address that a program fills itself has not passed ParseAddress.
func TestAddress_WithoutNetworkOrPathIsUnusable(t *testing.T) {
	for _, a := range []transport.Address{{}, {Network: "unix"}, {Network: "tcp"}, {Network: "udp", Addr: "127.0.0.1:1"}, {Addr: "/run/x"}} {
		if ln, err := a.Listen(t.Context()); !errors.Is(err, transport.ErrAddress) {
			t.Errorf("listening on %+v: %v, %v", a, ln, err)
		}
		if conn, err := a.Dial(t.Context(), nil); !errors.Is(err, transport.ErrAddress) {
			t.Errorf("dialing %+v: %v, %v", a, conn, err)
		}
	}
}
