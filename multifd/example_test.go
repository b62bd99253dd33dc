package multifd_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"sync/atomic"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/multifd"
)

// A VMM carries its guest's memory over one channel. Here the wire is a
// buffer; package migration joins several channels and the main one.
func Example() {
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "pc.ram", Length: 1 << 20}})
	if err != nil {
		log.Fatal(err)
	}
	ram := layout.Block("pc.ram")
	source, err := guestmem.New(layout)
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	copy(source.Bytes(ram)[0x5000:], "hello from the source")

	// The source: a handshake, packets, a SYNC.
	var wire bytes.Buffer
	var count atomic.Uint64 // of the packets of all channels
	cfg := multifd.ChannelConfig{Channel: 0, PageSize: layout.PageSize}
	sender, err := multifd.NewSender(&wire, multifd.QPL, &count, cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer sender.Close()
	if err := sender.Handshake([16]byte{}); err != nil {
		log.Fatal(err)
	}
	pages := source.All()
	for batch := new(guest.Batch); ; {
		err := pages.Next(context.Background(), batch)
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		if err := sender.Send(batch); err != nil {
			log.Fatal(err)
		}
	}
	if err := sender.Sync(); err != nil {
		log.Fatal(err)
	}

	// The destination.
	destination, err := guestmem.New(layout)
	if err != nil {
		log.Fatal(err)
	}
	defer destination.Close()
	lane, err := destination.Lane()
	if err != nil {
		log.Fatal(err)
	}
	if _, err := multifd.ReadHandshake(&wire); err != nil {
		log.Fatal(err)
	}
	receiver, err := multifd.NewReceiver(&wire, multifd.QPL, cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer receiver.Close()
	receiver.SetLayout(layout)
	for {
		packet, _, err := receiver.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("packet %d: %d pages with data, %d zero, SYNC %v\n", packet.Num, len(packet.Normal), len(packet.Zero), packet.Sync())
		if err := receiver.Receive(lane); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Printf("%s\n", destination.Bytes(ram)[0x5000:0x5015])
	// Output:
	// packet 1: 1 pages with data, 127 zero, SYNC false
	// packet 2: 0 pages with data, 128 zero, SYNC false
	// packet 3: 0 pages with data, 0 zero, SYNC true
	// hello from the source
}
