package migration

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// bareDevices is device state of one section without a description.
const bareDevices = "\x04\x00\x00\x00\x03\x05timer\x00\x00\x00\x00\x00\x00\x00\x01data\x7e\x00\x00\x00\x03\x00"

// sendBare sends a machine without a description, with a return path. late is sent
// once the destination has said that it has all.
func sendBare(t *testing.T, noDescription bool, late string) (devices []byte, source, destination error) {
	t.Helper()
	ln := listenOn(t, "unix")
	var received *Received
	done := make(chan error, 1)
	go func() {
		var err error
		received, err = Receive(t.Context(), ln, ReceiveConfig{
			Wire: Wire{Channels: 1, Method: multifd.None}, Sink: new(guestmem.Memory), ConnectTimeout: time.Minute,
			Main: vmstate.DestinationOptions{NoDescription: noDescription, Quiet: 100 * time.Millisecond},
		})
		done <- err
	}()
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "ram", Length: 64 << 10}})
	if err != nil {
		t.Fatal(err)
	}
	addr := transport.Address{Network: "unix", Addr: ln.Addr().String()}
	s, err := Connect(t.Context(), func(ctx context.Context) (net.Conn, error) { return addr.Dial(ctx, nil) }, SendConfig{
		Wire: Wire{Channels: 1, Method: multifd.None}, Layout: layout, Zero: ZeroInPackets, ReturnPath: true,
		Head: (&vmstate.Configuration{Machine: "small", PageBits: 12}).Head(),
	})
	if err != nil {
		t.Fatal(err)
	}
	source = s.Finish(t.Context(), []byte(bareDevices))
	if late != "" {
		io.WriteString(s.mainConn, late)
	}
	s.Close()
	if destination = ended(t, done); destination == nil {
		devices = received.Devices
	}
	return devices, source, destination
}

func TestReceive_NoDescriptionWithReturnPath(t *testing.T) {
	_, source, destination := sendBare(t, false, "")
	if !errors.Is(source, vmstate.ErrRefused) || !errors.Is(destination, vmstate.ErrNoDescription) {
		t.Errorf("refused: source: %v; destination: %v", source, destination)
	}
	devices, source, destination := sendBare(t, true, "")
	if source != nil || destination != nil || string(devices) != bareDevices {
		t.Errorf("accepted: source: %v; destination: %v; device state %q", source, destination, devices)
	}
	if _, _, destination = sendBare(t, true, bareDevices); !errors.Is(destination, vmstate.ErrNoDescription) {
		t.Errorf("more came: destination: %v", destination)
	}
}
