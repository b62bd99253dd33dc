package dirty_test

import (
	"fmt"
	"log"

	"github.com/vmferry/vmferry/dirty"
	"github.com/vmferry/vmferry/guest"
)

func Example() {
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "ram", Length: 1 << 20}})
	if err != nil {
		log.Fatal(err)
	}
	memory, err := guest.NewMemory(layout)
	if err != nil {
		log.Fatal(err)
	}
	defer memory.Close()
	writes, err := dirty.New(memory, dirty.Options{Mode: dirty.Async})
	if err != nil {
		log.Fatal(err) // says what the kernel lacks
	}
	if err := writes.Start(); err != nil {
		log.Fatal(err)
	}
	defer writes.Stop()
	ram := memory.Bytes(layout.Blocks[0])
	ram[5*4096+17] = 1
	pages := guest.NewBitmap(layout)
	if err := writes.Collect(pages); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d page is dirty: word 0 is %#x\n", pages.Count(), pages[0][0])
	// Output: 1 page is dirty: word 0 is 0x20
}
