package deflate_test

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/vmferry/vmferry/deflate"
)

// Pages that do not shrink are best kept as they are, which is what a dst of
// one byte less than the page asks for.
func Example() {
	page := bytes.Repeat([]byte("memory "), 586)[:4096]

	enc := deflate.NewEncoder(deflate.Fast)
	stream := make([]byte, len(page)-1)
	n := enc.Deflate(stream, page)
	if n == 0 {
		fmt.Println("kept raw")
		return
	}

	dec := deflate.NewDecoder()
	out := make([]byte, len(page))
	if err := dec.Inflate(out, stream[:n]); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("shrunk:", n < 100, "same:", bytes.Equal(out, page))
	// Output: shrunk: true same: true
}

func ExampleDecoder_Inflate_corrupt() {
	page := bytes.Repeat([]byte("memory "), 586)[:4096]
	stream := make([]byte, len(page)-1)
	n := deflate.NewEncoder(deflate.Fast).Deflate(stream, page)

	err := deflate.NewDecoder().Inflate(make([]byte, 4000), stream[:n])
	fmt.Println(errors.Is(err, deflate.ErrCorrupt))
	// Output: true
}

func ExampleZeroPages() {
	mem := make([]byte, 4*4096)
	mem[5000] = 1

	zero := make([]bool, 4)
	n := deflate.ZeroPages(mem, 4096, zero)
	fmt.Println(n, zero)
	// Output: 3 [true false true true]
}
