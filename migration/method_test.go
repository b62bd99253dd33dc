package migration

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/iaa/iaamodel"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/pagecodec"
	"github.com/vmferry/vmferry/vmstate"
)

// plainMethod forwards the methods of Method and its states, and no optional ones.
type plainMethod struct{ multifd.Method }

type (
	plainSend    struct{ multifd.SendState }
	plainReceive struct{ multifd.ReceiveState }
)

func (m plainMethod) SetupSend(cfg multifd.ChannelConfig) (multifd.SendState, error) {
	s, err := m.Method.SetupSend(cfg)
	return plainSend{s}, err
}

func (m plainMethod) SetupReceive(cfg multifd.ChannelConfig) (multifd.ReceiveState, error) {
	s, err := m.Method.SetupReceive(cfg)
	return plainReceive{s}, err
}

// Packets overlap for speed: who wraps a method loses that and no page.
func TestMethod_WrapperLosesNoPage(t *testing.T) {
	cfg := iaamodel.Uniform(2, nil)
	cfg.Mapped = true
	m, err := iaamodel.New(t.TempDir(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	acc := pagecodec.NewAccelerator(pagecodec.Options{Policy: pagecodec.Require, Device: m.Options()})
	defer acc.Close()
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "ram", Length: 4 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	memory, err := guestmem.New(layout)
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	random := rand.New(rand.NewPCG(1, 2))
	for at, mem := 0, memory.Bytes(layout.Blocks[0]); at < len(mem); at += 64 {
		mem[at] = byte(random.Uint32())
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	sink := new(guestmem.Memory)
	defer sink.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := Receive(ctx, ln, ReceiveConfig{Wire: Wire{Channels: 2, Method: plainMethod{multifd.QPL}, Accelerator: acc}, Sink: sink})
		ended <- err
	}()
	head := vmstate.Configuration{Machine: "some", PageBits: 12, HasUUID: true}
	s, err := Connect(ctx, func(context.Context) (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) }, SendConfig{
		Wire: Wire{Channels: 2, Method: plainMethod{multifd.QPL}, Accelerator: acc}, Head: head.Head(), Layout: layout, Zero: ZeroInPackets, ReturnPath: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	state, err := vmstate.OwnerState(nil, 4096)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Round(ctx, memory.All()); err != nil {
		t.Error(err)
	}
	if err := s.Finish(ctx, state); err != nil {
		t.Error(err)
	}
	s.Close()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sink.Bytes(sink.Layout().Blocks[0]), memory.Bytes(layout.Blocks[0])) {
		t.Error("the memory is not the source's")
	}
	if stats, ok := acc.Stats(); !ok || stats.Pages.Hardware == 0 {
		t.Errorf("the device did nothing: %+v", stats)
	}
}
