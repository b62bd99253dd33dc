package live

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

func listenTCP(t *testing.T) net.Listener {
	t.Helper()
	ln, err := transport.Address{Network: "tcp", Addr: "127.0.0.1:0"}.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// A destination that has received run answers its source's inquiry despite silent
// connections.
func TestInquiry_SilentConnectionsMakeRoomForTheSource(t *testing.T) {
	ln := listenTCP(t)
	uuid := [16]byte{7}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	acc := transport.NewAcceptor(ctx, ln, &transport.AcceptConfig{Channels: 1, Logger: slog.New(slog.DiscardHandler)})
	defer acc.Stop()
	acc.CloseAccept()
	serve, err := acc.Reopen(maxInquiries)
	if err != nil {
		t.Fatal(err)
	}
	v := newVerdict(func() {})
	q := inquiries{uuid: uuid, log: slog.New(slog.DiscardHandler), verdict: v}
	answering := q.answer(ctx, serve)
	defer answering.stop()
	if !v.commit() {
		t.Fatal("decided already")
	}
	v.finish(true)
	for range 3 * maxInquiries {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	config := vmstate.Configuration{Machine: "vmferry", PageBits: 12, UUID: uuid, HasUUID: true}
	dial := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", ln.Addr().String())
	}
	if runs, err := inquireUntilKnown(t.Context(), dial, config.Head(), 30*time.Second, func(error) bool { return false }); err != nil || !runs {
		t.Errorf("runs: %v, error %v", runs, err)
	}
}
