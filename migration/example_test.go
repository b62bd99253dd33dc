package migration_test

import (
	"context"
	"fmt"
	"log"
	"net"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/vmstate"
)

// A source sends its memory to a destination, in QEMU's protocol.
func Example() {
	ctx := context.Background()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	wire := migration.Wire{Channels: 2, Method: multifd.QPL}

	there := new(guestmem.Memory) // as large as the stream says
	arrived := make(chan error, 1)
	go func() {
		_, err := migration.Receive(ctx, ln, migration.ReceiveConfig{Wire: wire, Sink: there})
		arrived <- err
	}()

	layout, err := guest.NewLayout(guest.DefaultPageSize, []guest.Block{{Name: "ram", Length: 1 << 20}})
	check(err)
	here, err := guestmem.New(layout)
	check(err)
	copy(here.Bytes(layout.Blocks[0]), "what the guest wrote")

	config := vmstate.Configuration{Machine: "example", PageBits: 12}
	dial := func(context.Context) (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) }
	s, err := migration.Connect(ctx, dial, migration.SendConfig{Wire: wire, Head: config.Head(), Layout: layout, ReturnPath: true})
	check(err)
	defer s.Close()
	check(s.Round(ctx, here.All())) // as often as there is something new
	state, err := vmstate.OwnerState(nil, layout.PageSize)
	check(err)
	check(s.Finish(ctx, state)) // the destination has everything
	check(<-arrived)
	fmt.Printf("%.20s\n", there.Bytes(there.Layout().Blocks[0]))
	// Output: what the guest wrote
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
