package vmstate_test

import (
	"bytes"
	"errors"
	"fmt"
	"log"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/vmstate"
)

// printer is a Handler that prints its events.
type printer struct{}

func (printer) Setup(l *guest.Layout, mode vmstate.SyncMode) error {
	fmt.Printf("%d RAM block, %d bytes, a sync point a %v\n", len(l.Blocks), l.Size(), mode)
	return nil
}

func (printer) SyncPoint() error {
	fmt.Println("sync point: wait for every channel's SYNC")
	return nil
}

func (printer) Zero(b *guest.Block, offset uint64) error {
	fmt.Printf("zero page at %#x of %s\n", offset, b.Name)
	return nil
}

func (printer) Page(b *guest.Block, offset uint64, data []byte) error {
	fmt.Printf("page at %#x of %s: %s\n", offset, b.Name, bytes.TrimRight(data, "\x00"))
	return nil
}

// A VMM writes the main channel of a QEMU machine, and another VMM reads it.
func Example() {
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "pc.ram", Length: 1 << 20}})
	if err != nil {
		log.Fatal(err)
	}
	ram := layout.Block("pc.ram")
	page := make([]byte, 4096)
	copy(page, "hello")
	// No devices: the end of the stream and a description without any.
	devices := append([]byte{0x00, 0x06, 0, 0, 0, 2}, "{}"...)

	var wire bytes.Buffer
	w := vmstate.NewWriter(&wire, layout, vmstate.SyncPerRound)
	head := (&vmstate.Configuration{Machine: "pc-q35-10.0"}).Head()
	if err := errors.Join(
		w.Head(head), w.Setup(),
		w.BeginSection(true), w.Page(ram, 0x1000, page), w.Zero(ram, 0x2000), w.EndSection(),
		w.Devices(devices),
	); err != nil {
		log.Fatal(err)
	}

	r := vmstate.NewDestination(&wire, nil, vmstate.DestinationOptions{})
	config, err := r.ReadHead()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(config.Machine)
	if err := r.Run(printer{}); err != nil {
		log.Fatal(err)
	}
	// Output:
	// pc-q35-10.0
	// 1 RAM block, 1048576 bytes, a sync point a round
	// sync point: wait for every channel's SYNC
	// page at 0x1000 of pc.ram: hello
	// zero page at 0x2000 of pc.ram
	// sync point: wait for every channel's SYNC
}
