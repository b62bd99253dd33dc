package dirty_test

import (
	"fmt"
	"log"

	"github.com/vmferry/vmferry/dirty"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
)

// newRAM maps a machine's memory.
func newRAM() *guestmem.Memory {
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "ram", Length: 1 << 20}})
	if err != nil {
		log.Fatal(err)
	}
	memory, err := guestmem.New(layout)
	if err != nil {
		log.Fatal(err)
	}
	return memory
}

func Example() {
	memory := newRAM()
	defer memory.Close()
	writes, err := dirty.New(memory, dirty.Options{Mode: dirty.Async})
	if err != nil {
		log.Fatal(err) // names the missing kernel feature
	}
	if err := writes.Start(); err != nil {
		log.Fatal(err)
	}
	defer writes.Stop()
	ram := memory.Bytes(memory.Layout().Blocks[0])
	ram[5*4096+17] = 1
	pages := guest.NewBitmap(memory.Layout())
	if err := writes.Collect(pages); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d page is dirty: word 0 is %#x\n", pages.Count(), pages[0][0])
	// Output: 1 page is dirty: word 0 is 0x20
}

// A device model of a VMM marks its writes. guest.JoinLogs(kvm, writes) is the log of
// the whole machine.
func ExampleMarks() {
	memory := newRAM()
	defer memory.Close()
	writes, err := dirty.NewMarks(memory)
	if err != nil {
		log.Fatal(err)
	}
	ram := memory.Layout().Blocks[0]
	receivePacket := func(at uint64, packet []byte) {
		copy(memory.Bytes(ram)[at:], packet)
		writes.Mark(ram, at, uint64(len(packet))) // after the write
	}
	if err := writes.Start(); err != nil {
		log.Fatal(err)
	}
	defer writes.Stop()
	receivePacket(0x1ffe, []byte("over the end of a page"))
	pages := guest.NewBitmap(memory.Layout())
	if err := writes.Collect(pages); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d pages are dirty: word 0 is %#x\n", pages.Count(), pages[0][0])
	// Output: 2 pages are dirty: word 0 is 0x6
}
