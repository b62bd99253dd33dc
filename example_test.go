package vmferry_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// A running QEMU machine is saved, and started again in another QEMU that waits with
// -incoming defer.
func ExampleSave() {
	ctx := context.Background()
	snap := vmferry.Snapshot{Path: "web1-monday"}
	saved, err := vmferry.Save(ctx, snap, qemu.SaveOptions{Monitor: qmp.Socket("vm.qmp")})
	if err != nil {
		log.Fatal(err) // the machine runs, and there is no snapshot
	}
	log.Printf("%d pages in %d bytes; paused for %v", saved.Pages, saved.Bytes, saved.Paused)

	restored, err := vmferry.Restore(ctx, snap, qemu.RestoreOptions{Monitor: qmp.Socket("other.qmp")})
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("the machine is %s after %v", restored.RunState, restored.Total)
}

// A migration that another program drives is received into a snapshot, and the snapshot
// is looked into. Here the other program is a Go program that sends its memory.
func ExampleReceive() {
	dir, err := os.MkdirTemp("", "vmferry-example")
	check(err)
	defer os.RemoveAll(dir)
	address := transport.Address{Network: "unix", Addr: filepath.Join(dir, "migration.sock")}
	sent := make(chan error, 1)
	go func() { sent <- sendMemory(address) }()

	snap := vmferry.Snapshot{Path: filepath.Join(dir, "snap")}
	_, err = vmferry.Receive(context.Background(), snap, vmferry.ReceiveOptions{Listen: address})
	check(err)
	check(<-sent)

	found, err := vmferry.Inspect(context.Background(), snap)
	check(err)
	sound, err := vmferry.Verify(context.Background(), snap, nil)
	check(err)
	fmt.Println(found.Blocks[0].Name, "keeps", sound.Pages, "pages")
	// Output: ram keeps 2 pages
}

// sendMemory sends 64 pages, two of them with data.
func sendMemory(to transport.Address) error {
	state, err := vmstate.OwnerState([]byte("counters"), guest.DefaultPageSize)
	if err != nil {
		return err
	}
	return sendMemoryAnd(state, to)
}

// sendMemoryAnd sends the memory and then the device state.
func sendMemoryAnd(state []byte, to transport.Address) error {
	ctx := context.Background()
	layout, err := guest.NewLayout(guest.DefaultPageSize, []guest.Block{{Name: "ram", Length: 64 * guest.DefaultPageSize}})
	if err != nil {
		return err
	}
	memory, err := guestmem.New(layout)
	if err != nil {
		return err
	}
	defer memory.Close()
	memory.Bytes(layout.Blocks[0])[0], memory.Bytes(layout.Blocks[0])[40*guest.DefaultPageSize] = 1, 2

	config := vmstate.Configuration{Machine: "example", PageBits: 12}
	dial := func(ctx context.Context) (net.Conn, error) { return to.Dial(ctx, nil) }
	s, err := migration.Connect(ctx, dial, migration.SendConfig{Head: config.Head(), Layout: layout, ReturnPath: true, ConnectTimeout: time.Minute})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Round(ctx, memory.All()); err != nil {
		return err
	}
	return s.Finish(ctx, state)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
