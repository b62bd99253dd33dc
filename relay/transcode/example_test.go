package transcode_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync/atomic"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/relay/transcode"
)

// A multifd channel of a source without compression arrives with zstd.
func ExampleCarry() {
	source, fromSource := net.Pipe()
	toDestination, destination := net.Pipe()
	go func() {
		if err := transcode.Carry(context.Background(), fromSource, toDestination, transcode.Config{In: multifd.None, Out: multifd.Zstd}); err != nil {
			fmt.Println(err)
		}
	}()
	go io.Copy(io.Discard, source) // what the destination answers

	// The source's QEMU, for which a Sender stands here.
	go func() {
		s, err := multifd.NewSender(source, multifd.None, new(atomic.Uint64), multifd.ChannelConfig{PageSize: 4096})
		if err != nil {
			panic(err)
		}
		defer s.Close()
		s.Handshake([16]byte{})
		s.Send(&guest.Batch{
			Block: &guest.Block{Name: "pc.ram", Length: 1 << 20}, Normal: []uint64{0x3000}, Zero: []uint64{0x5000}, Data: [][]byte{make([]byte, 4096)},
		})
		s.Sync()
		source.Close()
	}()

	// The destination's QEMU sees the same packets, with another payload.
	if _, err := multifd.ReadHandshake(destination); err != nil {
		panic(err)
	}
	header := make(multifd.Header, multifd.HeaderLen(4096))
	var p multifd.Packet
	for range 2 {
		if _, err := io.ReadFull(destination, header); err != nil {
			panic(err)
		}
		if err := header.Decode(&p, 4096); err != nil {
			panic(err)
		}
		fmt.Printf("packet %d: flags %v, pages %#x, zero pages %#x, smaller: %v\n", p.Num, p.Flags, p.Normal, p.Zero, p.PayloadLen < 4096)
		io.CopyN(io.Discard, destination, int64(p.PayloadLen))
	}
	// Output:
	// packet 1: flags zstd, pages [0x3000], zero pages [0x5000], smaller: true
	// packet 2: flags SYNC, pages [], zero pages [], smaller: true
}

// A daemon that stands between two QEMUs on one host.
func ExampleServe() {
	serve := func(ctx context.Context, ln net.Listener) error {
		dial := func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", "/run/vm/incoming")
		}
		return transcode.Serve(ctx, ln, dial, transcode.Config{In: multifd.None, Out: multifd.QPL})
	}
	_ = serve
}
