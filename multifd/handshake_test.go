package multifd_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/vmferry/vmferry/multifd"
)

func TestHandshake_RoundTrip(t *testing.T) {
	want := multifd.Handshake{ID: 254}
	for i := range want.UUID {
		want.UUID[i] = byte(i + 1)
	}
	wire := want.Append([]byte("before"))
	if len(wire) != len("before")+multifd.HandshakeLen {
		t.Fatalf("%d bytes", len(wire))
	}
	r := bytes.NewReader(append(wire[len("before"):], "after"...))
	got, err := multifd.ReadHandshake(r)
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if r.Len() != len("after") {
		t.Errorf("%d bytes are left, want those after the handshake", r.Len())
	}
}

func TestHandshake_MalformedIsRefused(t *testing.T) {
	good := multifd.Handshake{ID: 9}.Append(nil)
	for _, tt := range []struct {
		name    string
		change  func(b []byte)
		field   string
		channel int
	}{
		{"another magic", func(b []byte) { b[0] = 0x51 }, "magic", -1},
		{"the main channel's magic", func(b []byte) { copy(b, "QEVM") }, "magic", -1},
		{"version 2", func(b []byte) { b[7] = 2 }, "version", 9},
		{"version 0", func(b []byte) { b[7] = 0 }, "version", 9},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wire := bytes.Clone(good)
			tt.change(wire)
			_, err := multifd.ReadHandshake(bytes.NewReader(wire))
			var ce *multifd.ChannelError
			if !errors.As(err, &ce) || !errors.Is(err, multifd.ErrMalformed) {
				t.Fatalf("got %v", err)
			}
			if ce.Field != tt.field || ce.Channel != tt.channel || ce.Packet != 0 {
				t.Errorf("field %q of channel %d, packet %d", ce.Field, ce.Channel, ce.Packet)
			}
		})
	}
}

func TestHandshake_CutShortIsTruncated(t *testing.T) {
	wire := multifd.Handshake{ID: 9}.Append(nil)
	for n := range wire {
		_, err := multifd.ReadHandshake(bytes.NewReader(wire[:n]))
		var ce *multifd.ChannelError
		if !errors.Is(err, multifd.ErrTruncated) || !errors.As(err, &ce) || ce.Packet != 0 {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}
