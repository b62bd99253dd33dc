package migration_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/migration/stored"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store/storetest"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// TestSend_CorruptObjectFailsBeforeTheMachineStarts changes a byte of a page, which a
// restore sends, and one of an extent that a later round replaced, which it does not read.
func TestSend_CorruptObjectFailsBeforeTheMachineStarts(t *testing.T) {
	l, err := guest.NewLayout(4096, []guest.Block{{Name: "pc.ram", Length: 16 * 4096}, {Name: "vga.vram", Length: 4096}})
	if err != nil {
		t.Fatal(err)
	}
	b := storetest.NewBucket()
	w, err := snapshot.Create(t.Context(), b, snapshot.Options{Store: snapshot.StoreRaw})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Setup(l); err != nil {
		t.Fatal(err)
	}
	lane, err := w.Lane()
	if err != nil {
		t.Fatal(err)
	}
	for i, offsets := range [][]uint64{{0}, {0}, {0, 4096, 8192, 3 * 4096, 4 * 4096}} {
		pages, err := lane.Pages(l.Blocks[i%2], offsets)
		if err != nil {
			t.Fatal(err)
		}
		for j := range pages {
			pages[j][0] = byte(i + 1)
		}
		if err := lane.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if err := lane.Close(); err != nil {
		t.Fatal(err)
	}
	meta := snapshot.Meta{
		Head:    (&vmstate.Configuration{Machine: "pc-q35-10.0", PageBits: 12}).Head(),
		Devices: append([]byte{0, 6, 0, 0, 0, 2}, "{}"...),
		Machine: snapshot.Machine{Type: "pc-q35-10.0", PageSize: 4096},
	}
	if _, err := w.Finish(t.Context(), meta); err != nil {
		t.Fatal(err)
	}
	const superseded, current = 8 * 100, 8 * (2*4096 + 100) // bits of the object
	for _, changed := range []bool{false, true} {
		b.FlipBit("pages-000000", superseded)
		if changed {
			b.FlipBit("pages-000000", current)
		}
		r, err := snapshot.Open(t.Context(), b, snapshot.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		ln := migration.Listen(t)
		mem := new(guestmem.Memory)
		defer mem.Close()
		done := make(chan error, 1)
		go func() {
			_, err := migration.Receive(context.Background(), ln, migration.ReceiveConfig{Wire: migration.Wire{Channels: 1, Method: multifd.None}, Sink: mem, ConnectTimeout: time.Minute})
			done <- err
		}()
		addr := transport.Address{Network: "unix", Addr: ln.Addr().String()}
		dial := func(ctx context.Context) (net.Conn, error) { return addr.Dial(ctx, nil) }
		err = stored.Send(t.Context(), dial, r, stored.SendConfig{Wire: migration.Wire{Channels: 1, Method: multifd.None}})
		received := <-done
		if !changed && (err != nil || received != nil || !r.DigestsVerified()) {
			t.Fatalf("unchanged: sent %v, received %v, digests verified %v", err, received, r.DigestsVerified())
		}
		if changed && (!errors.Is(err, snapshot.ErrCorrupt) || !strings.Contains(err.Error(), "pages-000000: the digest of the extent") || received == nil) {
			t.Errorf("changed: sent %v, received %v; want an error that names the object, and no machine", err, received)
		}
	}
}
