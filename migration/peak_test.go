package migration

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// peakCase is a source that tries to have the destination take much memory for
// few bytes. A new decoder of what a source sends belongs here.
type peakCase struct {
	length uint64 // of the source's memory
	// send sends what the source has behind its setup.
	send func(s *Sender) error
	cfg  ReceiveConfig
	want error // that the destination's wraps; nil if it takes everything
	says string
}

// A destination's memory follows the bytes that came. What is allocated in all is
// counted, which is more than is in use at any moment, and depends on no clock:
// at most this many times what was sent, and a part that is always there.
const (
	peakTimes = 8
	peakFixed = 24 << 20
)

func TestReceive_MemoryFollowsReceivedBytes(t *testing.T) {
	section := func(name string, data []byte) []byte {
		b := binary.BigEndian.AppendUint32([]byte{4}, 7)
		b = append(b, byte(len(name)))
		b = append(b, name...)
		b = binary.BigEndian.AppendUint32(b, 0)
		b = binary.BigEndian.AppendUint32(b, 1)
		b = append(b, data...)
		return binary.BigEndian.AppendUint32(append(b, 0x7e), 7)
	}
	described := func(text string) []byte {
		b := append(section("timer", nil), 0, 6)
		return append(binary.BigEndian.AppendUint32(b, uint32(len(text))), text...)
	}
	devices := func(b []byte) func(*Sender) error {
		return func(s *Sender) error {
			if err := s.End(context.Background(), b); err != nil {
				return err
			}
			return s.mainConn.(*transport.Link).Conn.(*net.TCPConn).CloseWrite()
		}
	}
	const some = 2 << 20
	for name, c := range map[string]peakCase{
		"a description of many empty devices": {send: devices(described(`{"devices": [{}` + strings.Repeat(",{}", some/3) + `]}`)),
			want: vmstate.ErrTruncated, says: "description"},
		"a description of one device again and again": {send: devices(described(`{"devices": [` + strings.Repeat(`{"name":"timer"},`, some/17) + `{"name":"timer"}]}`)),
			want: vmstate.ErrTruncated, says: "description"},
		"a description of lists in lists": {send: devices(described(`{"devices": ` + strings.Repeat("[", some) + `}`)),
			want: vmstate.ErrTruncated, says: "description"},
		"a description with much beside": {send: devices(described(`{"devices": [{"name":"timer"}], "more": [{}` + strings.Repeat(",{}", some/3) + `]}`))},
		"a device with much beside":      {send: devices(described(`{"devices": [{"name":"timer", "fields": [{}` + strings.Repeat(",{}", some/3) + `]}]}`))},
		"device state on the main channel beyond the bound": {send: devices(bytes.Repeat([]byte{4}, some)),
			cfg: ReceiveConfig{Main: vmstate.DestinationOptions{MaxDevices: some / 2}}, want: vmstate.ErrMalformed, says: "more than 1048576 bytes"},
		"device-state packets that claim much": {send: func(s *Sender) error { return sendStates(s, 100<<10, 64<<20) },
			want: multifd.ErrTruncated, says: "data"},
		"device-state packets beyond the bound, together": {send: func(s *Sender) error { return sendStates(s, 1<<20, 1<<20) },
			cfg: ReceiveConfig{Main: vmstate.DestinationOptions{MaxDevices: some / 2}}, want: vmstate.ErrMalformed, says: "on all channels"},
		"a machine that is too large": {length: 20 << 40, want: vmstate.ErrTooLarge, says: "20 TiB (21990232555520 bytes), above the limit of 16 TiB"},
		"a machine that is larger than asked for": {length: 2 << 30, cfg: ReceiveConfig{MaxMemory: 1 << 30},
			want: vmstate.ErrTooLarge, says: "--max-memory"},
		"a large machine with a page here and there": {length: 1 << 40, send: func(s *Sender) error {
			if err := s.main.BeginSection(false); err != nil {
				return err
			}
			for at := uint64(0); at < 1<<40; at += 65536 * 4096 {
				if err := s.main.Zero(s.cfg.Layout.Blocks[0], at); err != nil {
					return err
				}
			}
			if err := s.syncPoint(); err != nil {
				return err
			}
			state, err := vmstate.OwnerState(nil, 4096)
			if err != nil {
				return err
			}
			return s.End(context.Background(), state)
		}, cfg: ReceiveConfig{Handover: func(*Inbound) error { return nil }}, want: ErrIncomplete, says: "268431360 of the 268435456 pages"},
	} {
		t.Run(name, func(t *testing.T) { c.run(t) })
	}
}

func (c *peakCase) run(t *testing.T) {
	if c.length == 0 {
		c.length = 1 << 20
	}
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "ram", Length: c.length}})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := c.cfg
	cfg.Channels, cfg.Method, cfg.Sink, cfg.ConnectTimeout = 4, multifd.None, new(nowhere), time.Minute
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	ended := make(chan error, 1)
	go func() {
		_, err := Receive(t.Context(), ln, cfg)
		ended <- err
	}()
	head := vmstate.Configuration{Machine: "some", PageBits: 12, HasUUID: true}
	// The error of the source does not matter: the destination has refused it.
	s, err := Connect(t.Context(), func(context.Context) (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) }, SendConfig{
		Wire: Wire{Channels: 4, Method: multifd.None}, Head: head.Head(), Layout: layout, Zero: ZeroInMain, ReturnPath: true, Pings: []uint32{vmstate.HandoverRequest},
	})
	var sent uint64
	if err == nil {
		if c.send != nil {
			c.send(s)
		}
		sent = s.main.Bytes()
		for _, sender := range s.senders {
			sent += sender.Bytes()
		}
	}
	select {
	case err = <-ended:
	case <-time.After(time.Minute):
		t.Fatal("the destination does not end")
	}
	if s != nil {
		s.Close()
	}
	runtime.ReadMemStats(&after)
	if c.want == nil {
		// All has arrived, but the source never asks it to run.
		if errors.Is(err, vmstate.ErrTruncated) || errors.Is(err, vmstate.ErrMalformed) {
			t.Errorf("the destination says %v", err)
		}
	} else if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
		t.Errorf("the destination says %v, want %q and %q", err, c.want, c.says)
	}
	took := after.TotalAlloc - before.TotalAlloc
	t.Logf("%d bytes were sent, %d KiB were allocated", sent, took>>10)
	if most := peakTimes*sent + peakFixed; took > most {
		t.Errorf("%d bytes were allocated for %d that were sent; want %d at most", took, sent, most)
	}
}

// sendStates sends a device-state packet on each channel: size bytes of one that
// claims to have more, and the end of the channels.
func sendStates(s *Sender, size, claim int) error {
	for _, sender := range s.senders {
		if err := sender.SendDeviceState(&devicestate.Packet{ID: "vfio", Data: make([]byte, size)}); err != nil && claim == size {
			return err
		}
	}
	for _, conn := range s.conns[1:] {
		if claim > size {
			packet, err := (&devicestate.Packet{ID: "vfio", Data: make([]byte, size)}).Append(nil)
			if err != nil {
				return err
			}
			binary.BigEndian.PutUint32(packet[272:], uint32(claim))
			if _, err := conn.Write(packet); err != nil {
				return err
			}
		}
		if err := conn.Conn.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
	}
	return nil
}
