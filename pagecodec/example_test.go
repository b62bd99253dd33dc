package pagecodec_test

import (
	"bytes"
	"fmt"
	"log"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/pagecodec"
)

// A nil Accelerator uses software. The calls are the same with a device.
func Example() {
	const pageSize = 4096
	var acc *pagecodec.Accelerator
	enc, err := acc.NewEncoder(pageSize, deflate.Dense)
	if err != nil {
		log.Fatal(err)
	}
	defer enc.Close()
	dec, err := acc.NewDecoder(pageSize)
	if err != nil {
		log.Fatal(err)
	}
	defer dec.Close()

	pages := [][]byte{bytes.Repeat([]byte("page"), pageSize/4), bytes.Repeat([]byte{7}, pageSize)}
	if err := enc.Begin(pages); err != nil {
		log.Fatal(err)
	}
	if err := enc.Finish(); err != nil {
		log.Fatal(err)
	}
	var lengths []uint32
	var data []byte
	room := make([]byte, pageSize-1)
	for i := range pages {
		stream := enc.Stream(i, room)
		lengths, data = append(lengths, uint32(len(stream))), append(data, stream...)
	}
	enc.Release()

	got := [][]byte{make([]byte, pageSize), make([]byte, pageSize)}
	if err := dec.Begin(lengths, data, got); err != nil {
		log.Fatal(err)
	}
	if err := dec.Finish(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(data) < 100, bytes.Equal(got[0], pages[0]), bytes.Equal(got[1], pages[1]))
	// Output: true true true
}
