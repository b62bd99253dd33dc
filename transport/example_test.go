package transport_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// A destination gathers the connections of one source: its main channel and, here, two
// multifd channels.
func Example() {
	ctx := context.Background()
	ln, err := transport.Address{Network: "tcp", Addr: "127.0.0.1:0"}.Listen(ctx)
	check(err)
	acceptor := transport.NewAcceptor(ctx, ln, &transport.AcceptConfig{Channels: 2, Logger: slog.New(slog.DiscardHandler)})
	defer acceptor.Stop()

	machine := vmstate.Configuration{Machine: "example", PageBits: 12}
	source := []net.Conn{
		dial(ln, machine.Head()),
		dial(ln, multifd.Handshake{ID: 0}.Append(nil)),
		dial(ln, multifd.Handshake{ID: 1}.Append(nil)),
	}

	conns, err := acceptor.Gather(ctx)
	check(err)
	fmt.Println("gathered a main channel and", len(conns.Channels), "multifd channels")
	conns.Close()
	for _, conn := range source {
		check(conn.Close())
	}
	// Output: gathered a main channel and 2 multifd channels
}

// dial connects, and says what the connection is.
func dial(ln net.Listener, first []byte) net.Conn {
	conn, err := net.Dial("tcp", ln.Addr().String())
	check(err)
	_, err = conn.Write(first)
	check(err)
	return conn
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
