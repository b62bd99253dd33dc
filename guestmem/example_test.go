package guestmem_test

import (
	"context"
	"fmt"
	"io"
	"log"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
)

// A VMM attaches the memory that it mapped for its guest, and gets a source of the
// pages that its dirty log reports.
func Example() {
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "pc.ram", Length: 1 << 20}})
	if err != nil {
		log.Fatal(err)
	}
	ram := make([]byte, 1<<20) // what the VMM gave to the guest
	memory, err := guestmem.Attach(layout, [][]byte{ram})
	if err != nil {
		log.Fatal(err)
	}

	copy(ram[5*4096:], "written by the guest")
	dirty := [][]uint64{make([]uint64, 256/64)} // one bit for each page, as in KVM's dirty log
	dirty[0][0] = 1<<5 | 1<<6
	source, err := memory.Dirty(dirty)
	if err != nil {
		log.Fatal(err)
	}
	var batch guest.Batch
	for {
		err := source.Next(context.Background(), &batch)
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: data at %#x, zero at %#x\n", batch.Block.Name, batch.Normal, batch.Zero)
	}
	// Output:
	// pc.ram: data at [0x5000], zero at [0x6000]
}

// Memory receives pages without a copy: a reader fills the buffers of Pages, which
// are the memory itself.
func ExampleMemory_Lane() {
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "pc.ram", Length: 1 << 20}})
	if err != nil {
		log.Fatal(err)
	}
	memory, err := guestmem.New(layout)
	if err != nil {
		log.Fatal(err)
	}
	defer memory.Close()
	lane, err := memory.Lane()
	if err != nil {
		log.Fatal(err)
	}
	ram := layout.Block("pc.ram")
	pages, err := lane.Pages(ram, []uint64{0x3000})
	if err != nil {
		log.Fatal(err)
	}
	copy(pages[0], "from the wire")
	if err := lane.Commit(); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", memory.Bytes(ram)[0x3000:0x300d])
	fmt.Println(memory.Received(ram, 0x3000), memory.Received(ram, 0x4000))
	// Output:
	// from the wire
	// true false
}
