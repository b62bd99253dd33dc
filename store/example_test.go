package store_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/vmferry/vmferry/store"
)

// An object is written, committed, and read back by its name.
func Example() {
	ctx := context.Background()
	base, err := os.MkdirTemp("", "store-example")
	check(err)
	defer os.RemoveAll(base)

	dir, err := store.CreateDir(filepath.Join(base, "objects"))
	check(err)
	w, err := dir.Create(ctx, "greeting")
	check(err)
	_, err = w.Write(ctx, []byte("hello"))
	check(err)
	names, err := dir.List(ctx)
	check(err)
	fmt.Println("begun:", names)

	check(w.Commit(ctx)) // durable, and visible under its name
	o, err := dir.Open(ctx, "greeting")
	check(err)
	text := make([]byte, o.Size())
	err = store.ReadFull(ctx, o, text, 0)
	check(err)
	fmt.Printf("read: %s\n", text)
	check(o.Close())
	check(dir.Close())
	// Output:
	// begun: [greeting.partial]
	// read: hello
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
