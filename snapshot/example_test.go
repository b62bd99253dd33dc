package snapshot_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/vmstate"
)

// A VMM keeps its guest's memory in a directory and reads it back.
func Example() {
	parent, err := os.MkdirTemp("", "vmferry-example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(parent)
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "pc.ram", Length: 1 << 30}})
	if err != nil {
		log.Fatal(err)
	}
	ram := layout.Block("pc.ram")

	dir, err := store.CreateDir(filepath.Join(parent, "vm1"))
	if err != nil {
		log.Fatal(err)
	}
	defer dir.Close() // until then it is locked
	if err := keep(dir, layout, ram); err != nil {
		log.Fatal(err)
	}

	reader, err := snapshot.Open(context.Background(), dir, snapshot.OpenOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer reader.Close()
	verified, err := reader.Verify(context.Background(), nil)
	if err != nil {
		log.Fatal(err)
	}
	page := make([]byte, 4096)
	if err := reader.Page(context.Background(), reader.Layout().Block("pc.ram"), 0x5000, page); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d page: %s\n", verified.Pages, page[:5])
	// Output: 1 page: hello
}

// keep writes a snapshot of one page. A lane is for one goroutine; a VMM has
// several.
func keep(bucket store.Bucket, layout *guest.Layout, ram *guest.Block) (err error) {
	w, err := snapshot.Create(context.Background(), bucket, snapshot.Options{Store: snapshot.StoreFast, Tool: "my VMM"})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			w.Abort(context.Background()) // nothing is left of half a snapshot
		}
	}()
	if err := w.Setup(layout); err != nil {
		return err
	}
	lane, err := w.Lane()
	if err != nil {
		return err
	}
	pages, err := lane.Pages(ram, []uint64{0x5000})
	if err != nil {
		return err
	}
	clear(pages[0])
	copy(pages[0], "hello")
	if err := lane.Commit(); err != nil {
		return err
	}
	if err := lane.Close(); err != nil {
		return err
	}
	_, err = w.Finish(context.Background(), snapshot.Meta{
		Head:    (&vmstate.Configuration{Machine: "my-machine"}).Head(),
		Devices: append([]byte{0x00, 0x06, 0, 0, 0, 2}, "{}"...),
		Machine: snapshot.Machine{Type: "my-machine", PageSize: layout.PageSize},
	})
	return err
}

// A snapshot is a source of its pages: for a restore, or to copy them anywhere.
func ExampleReader_Source() {
	parent, err := os.MkdirTemp("", "vmferry-example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(parent)
	dir, err := store.CreateDir(parent)
	if err != nil {
		log.Fatal(err)
	}
	defer dir.Close()
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "pc.ram", Length: 1 << 30}})
	if err != nil {
		log.Fatal(err)
	}
	if err := keep(dir, layout, layout.Block("pc.ram")); err != nil {
		log.Fatal(err)
	}
	reader, err := snapshot.Open(context.Background(), dir, snapshot.OpenOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer reader.Close()
	source := reader.Source(snapshot.SourceOptions{})
	for batch := new(guest.Batch); ; {
		err := source.Next(context.Background(), batch)
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		for i, offset := range batch.Normal {
			fmt.Printf("%s at %#x: %s\n", batch.Block.Name, offset, batch.Data[i][:5])
		}
	}
	// Output: pc.ram at 0x5000: hello
}
