package multifd_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/multifd"
)

// fuzzPageSize has the shortest header, so that seeds are small.
const fuzzPageSize = 64 << 10

// fuzzSeeds are channels of each method: packets with data, with zero pages,
// device states and SYNCs.
func fuzzSeeds(t testing.TB, m multifd.Method) map[string][]byte {
	l := layout(t, fuzzPageSize)
	r := seeded("fuzz")
	a, b := makeBatch(r, l, "pc.ram", "one byte", 2, 1), makeBatch(r, l, "vga.vram", "text", 1, 0)
	if m == multifd.None {
		a, b = makeBatch(r, l, "pc.ram", "one byte", 0, 3), makeBatch(r, l, "vga.vram", "text", 0, 8)
	}
	if m == multifd.Zlib || m == multifd.Zstd {
		b.Data[0] = makePage(r, "one byte", fuzzPageSize)
	}
	ps := packets(t, m, fuzzPageSize, 0, a, b)
	device := encodeState(t, state("0000:00:05.0/vfio", 1, []byte("state")))
	return map[string][]byte{
		"packets": slices.Concat(ps[0], syncPacket(fuzzPageSize), ps[1]),
		"states":  slices.Concat(device, ps[0], device),
	}
}

// FuzzReceiver gives any bytes to the receiver of any method. It may only put
// pages into the memory and return errors that say that the stream is at fault.
func FuzzReceiver(f *testing.F) {
	for i, m := range multifd.Methods() {
		for name, wire := range fuzzSeeds(f, m) {
			addSeed(f, m.Name()+"-"+name, byte(i), wire)
		}
	}
	l := layout(f, fuzzPageSize)
	mem, err := guestmem.New(l)
	if err != nil {
		f.Fatal(err)
	}
	defer mem.Close()
	f.Fuzz(func(t *testing.T, method byte, wire []byte) {
		m := multifd.Methods()[int(method)%len(multifd.Methods())]
		rc := receiver(t, bytes.NewReader(wire), m, l)
		n, err := receiveAll(rc, laneOf(t, mem))
		if uint64(n) > rc.Count() || rc.Bytes() > uint64(len(wire)) {
			t.Errorf("%d packets of %d, %d bytes of %d", n, rc.Count(), rc.Bytes(), len(wire))
		}
		if err == nil {
			if rc.Bytes() != uint64(len(wire)) {
				t.Errorf("it ended after %d bytes of %d", rc.Bytes(), len(wire))
			}
			return
		}
		var ce *multifd.ChannelError
		if !errors.As(err, &ce) || ce.Channel != 3 || ce.Packet == 0 || ce.Field == "" {
			t.Errorf("%v does not say where", err)
		}
		if !errors.Is(err, multifd.ErrMalformed) && !errors.Is(err, multifd.ErrTruncated) {
			t.Errorf("%v does not say that the stream is at fault", err)
		}
	})
}

// FuzzHandshake: what is taken is what would be sent.
func FuzzHandshake(f *testing.F) {
	addSeed(f, "channel-3", multifd.Handshake{ID: 3, UUID: [16]byte{1, 2, 3}}.Append(nil))
	addSeed(f, "main-channel", []byte("QEVM"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		h, err := multifd.ReadHandshake(bytes.NewReader(wire))
		if err != nil {
			var ce *multifd.ChannelError
			if !errors.As(err, &ce) || ce.Packet != 0 || !errors.Is(err, multifd.ErrMalformed) && !errors.Is(err, multifd.ErrTruncated) {
				t.Errorf("got %v", err)
			}
			return
		}
		if got := h.Append(nil); !bytes.Equal(got[:25], wire[:25]) {
			t.Errorf("%x was taken for %x", wire[:25], got[:25])
		}
	})
}
