package multifd_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
)

func TestPacket_HeaderRoundTrip(t *testing.T) {
	for _, pageSize := range []int{1 << 10, 4 << 10, 16 << 10, 64 << 10} {
		t.Run(sizeName(pageSize), func(t *testing.T) {
			l := layout(t, pageSize)
			full := guest.PacketPages(pageSize)
			r := seeded(t.Name())
			batches := []*guest.Batch{
				makeBatch(r, l, "pc.ram", "random", 1, 0),
				makeBatch(r, l, "vga.vram", "random", full, 0),
				makeBatch(r, l, "pc.ram", "random", full/2, full-full/2),
				makeBatch(r, l, "vga.vram", "random", 0, full),
				makeBatch(r, l, "pc.bios", "random", 0, 1),
			}
			wire := slices.Concat(packets(t, multifd.None, pageSize, 0, batches...)...)
			rc := receiver(t, bytes.NewReader(wire), multifd.None, l)
			lane := laneOf(t, memory(t, l))
			for i, b := range batches {
				got, state, err := rc.Next()
				if err != nil || state != nil {
					t.Fatal(state, err)
				}
				want := &multifd.Packet{Num: uint64(i + 1), Block: b.Block, Normal: b.Normal, Zero: b.Zero, PayloadLen: uint32(len(b.Normal) * pageSize)}
				if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b *guest.Block) bool { return a == b }), cmp.Transformer("nil", func(o []uint64) []uint64 { return append([]uint64{}, o...) })); diff != "" {
					t.Errorf("packet %d (-want +got):\n%s", i+1, diff)
				}
				if err := rc.Receive(lane); err != nil {
					t.Fatal(err)
				}
			}
			if _, _, err := rc.Next(); err != io.EOF {
				t.Errorf("after the last packet: %v", err)
			}
			if rc.Bytes() != uint64(len(wire)) {
				t.Errorf("%d bytes read of %d", rc.Bytes(), len(wire))
			}
		})
	}
}

// TestPacket_FieldsAreChecked breaks one field of the second packet of channel 3.
func TestPacket_FieldsAreChecked(t *testing.T) {
	nonePage := bytes.Repeat([]byte{7}, page4K)
	none := func() rawPacket { return newRawPacket(page4K, 0, "pc.ram", offsets(page4K, 5), nil, nonePage) }
	for _, tt := range []struct {
		name   string
		method multifd.Method
		change func(p *rawPacket)
		field  string
	}{
		{"magic", multifd.None, func(p *rawPacket) { p.magic = 0x44332211 }, "magic"},
		{"version", multifd.None, func(p *rawPacket) { p.version = 2 }, "version"},
		{"a flag that is none", multifd.None, func(p *rawPacket) { p.flags = 0x80 }, "flags"},
		{"the highest flag", multifd.None, func(p *rawPacket) { p.flags = 1 << 31 }, "flags"},
		{"another method's bits", multifd.None, func(p *rawPacket) { p.flags = 0x02 }, "flags"},
		{"no method's bits where there is a method", multifd.Zstd, func(p *rawPacket) {}, "flags"},
		{"two methods' bits", multifd.Zstd, func(p *rawPacket) { p.flags = 0x06 }, "flags"},
		{"another method's bits without pages", multifd.Zstd, func(p *rawPacket) { *p = newRawPacket(page4K, 0x08, "", nil, nil, nil) }, "flags"},
		{"pages_alloc beyond a packet", multifd.None, func(p *rawPacket) { p.alloc = 129 }, "pages_alloc"},
		{"normal_pages beyond a packet", multifd.None, func(p *rawPacket) { p.normal = 129 }, "normal_pages"},
		{"normal_pages of 4 Gi", multifd.None, func(p *rawPacket) { p.normal = ^uint32(0) }, "normal_pages"},
		{"zero_pages beyond a packet", multifd.None, func(p *rawPacket) { p.zero = 128 }, "zero_pages"},
		{"zero_pages that overflow with normal_pages", multifd.None, func(p *rawPacket) { p.zero = ^uint32(0) }, "zero_pages"},
		{"ramblock without an end", multifd.None, func(p *rawPacket) { p.ramblock = strings.Repeat("x", 256) }, "ramblock"},
		{"ramblock that is unknown", multifd.None, func(p *rawPacket) { p.ramblock = "pc.rom\x00" }, "ramblock"},
		{"ramblock that is empty", multifd.None, func(p *rawPacket) { p.ramblock = "\x00" }, "ramblock"},
		{"offset within a page", multifd.None, func(p *rawPacket) { p.offsets[0] += 8 }, "offset[0]"},
		{"offset beyond the block", multifd.None, func(p *rawPacket) { p.offsets[0] = 2 * guest.PacketBytes }, "offset[0]"},
		{"offset that wraps around", multifd.None, func(p *rawPacket) { p.offsets[0] = ^uint64(0) &^ 4095 }, "offset[0]"},
		{"offset of a zero page", multifd.None, func(p *rawPacket) { p.zero, p.offsets = 1, []uint64{0, 1 << 40} }, "offset[1]"},
		{"next_packet_size too small", multifd.None, func(p *rawPacket) { p.next-- }, "next_packet_size"},
		{"next_packet_size too large", multifd.None, func(p *rawPacket) { p.next++ }, "next_packet_size"},
		{"next_packet_size of nothing", multifd.None, func(p *rawPacket) { p.next = 0 }, "next_packet_size"},
		{"next_packet_size of 4 GiB", multifd.None, func(p *rawPacket) { p.next = ^uint32(0) }, "next_packet_size"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := layout(t, page4K)
			p := none()
			tt.change(&p)
			// Empty packets and SYNCs are alike in all methods.
			wire := slices.Concat(syncPacket(page4K), p.bytes())
			n, err := receiveAll(receiver(t, bytes.NewReader(wire), tt.method, l), laneOf(t, memory(t, l)))
			if n != 1 {
				t.Errorf("%d packets were taken, want 1", n)
			}
			wantChannelError(t, err, multifd.ErrMalformed, 2, tt.field)
		})
	}
	t.Run("nothing broken", func(t *testing.T) {
		l := layout(t, page4K)
		if n, err := receiveAll(receiver(t, bytes.NewReader(none().bytes()), multifd.None, l), laneOf(t, memory(t, l))); n != 1 || err != nil {
			t.Errorf("%d packets, %v", n, err)
		}
	})
}

func TestPacket_OffsetErrorsWrapLayoutErrors(t *testing.T) {
	l := layout(t, page4K)
	p := newRawPacket(page4K, 0, "pc.ram", []uint64{12}, nil, make([]byte, page4K))
	_, _, err := receiver(t, bytes.NewReader(p.bytes()), multifd.None, l).Next()
	if !errors.Is(err, guest.ErrLayout) || !errors.Is(err, multifd.ErrMalformed) {
		t.Errorf("got %v", err)
	}
}

func TestReceiver_PagesBeforeTheLayoutAreRefused(t *testing.T) {
	rc, err := multifd.NewReceiver(bytes.NewReader(slices.Concat(
		syncPacket(page4K), newRawPacket(page4K, 0, "pc.ram", offsets(page4K, 0), nil, make([]byte, page4K)).bytes(),
	)), multifd.None, multifd.ChannelConfig{Channel: 3, PageSize: page4K})
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if p, _, err := rc.Next(); err != nil || !p.Sync() {
		t.Fatalf("a SYNC needs no layout: %v", err)
	}
	_, _, err = rc.Next()
	wantChannelError(t, err, multifd.ErrMalformed, 2, "normal_pages")
}

func TestReceiver_AcceptsQuirksOfOtherVersions(t *testing.T) {
	page := bytes.Repeat([]byte{9}, page4K)
	for _, tt := range []struct {
		name   string
		packet rawPacket
		sync   bool
		pages  int
	}{
		{"SYNC rides on a packet with data (7.2)", newRawPacket(page4K, 1, "pc.ram", offsets(page4K, 1), nil, page), true, 1},
		{"an empty packet keeps a stale next_packet_size (7.2)", func() rawPacket {
			p := newRawPacket(page4K, 0, "pc.ram", nil, nil, nil)
			p.next = 524288
			return p
		}(), false, 0},
		{"an empty SYNC keeps an unknown ramblock and stale offsets", func() rawPacket {
			p := newRawPacket(page4K, 1, "gone", []uint64{1, 2, 3}, nil, nil)
			p.normal, p.next = 0, 99
			return p
		}(), true, 0},
		{"pages_alloc is 0 in a SYNC (11.1)", func() rawPacket {
			p := newRawPacket(page4K, 1, "", nil, nil, nil)
			p.alloc = 0
			return p
		}(), true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := layout(t, page4K)
			m := memory(t, l)
			wire := slices.Concat(tt.packet.bytes(), syncPacket(page4K))
			rc := receiver(t, bytes.NewReader(wire), multifd.None, l)
			p, _, err := rc.Next()
			if err != nil {
				t.Fatal(err)
			}
			if p.Sync() != tt.sync || len(p.Normal) != tt.pages {
				t.Errorf("SYNC %v with %d pages, want %v with %d", p.Sync(), len(p.Normal), tt.sync, tt.pages)
			}
			if err := rc.Receive(laneOf(t, m)); err != nil {
				t.Fatal(err)
			}
			if p, _, err := rc.Next(); err != nil || !p.Sync() {
				t.Errorf("the packet after it is not read: %v", err)
			}
			if tt.pages > 0 && !bytes.Equal(m.Bytes(l.Block("pc.ram"))[page4K:2*page4K], page) {
				t.Error("the page did not arrive")
			}
		})
	}
}

func TestReceiver_ChannelThatEndsInAPacketIsTruncated(t *testing.T) {
	const pageSize = 64 << 10 // the shortest header
	forMethods(t, func(t *testing.T, m multifd.Method) {
		l := layout(t, pageSize)
		wires := [][]byte{syncPacket(pageSize), packets(t, m, pageSize, 0, makeBatch(seeded("truncated"), l, "pc.ram", "one byte", 1, 1))[0]}
		wire := slices.Concat(wires...)
		lane := laneOf(t, memory(t, l))
		edges := map[int]bool{0: true, len(wires[0]): true, len(wire): true}
		for n := 0; n <= len(wire); n++ {
			if n > 0 && n < len(wires[0])-13 {
				n += 12
			}
			if n > len(wires[0])+1000 && n < len(wire)-1000 {
				n += 996 // the inside of a raw page is all alike
			}
			rc, err := multifd.NewReceiver(bytes.NewReader(wire[:n]), m, multifd.ChannelConfig{Channel: 3, PageSize: pageSize})
			if err != nil {
				t.Fatal(err)
			}
			rc.SetLayout(l)
			_, err = receiveAll(rc, lane)
			rc.Close()
			if edges[n] {
				if err != nil {
					t.Errorf("between packets, after %d bytes: %v", n, err)
				}
				continue
			}
			var ce *multifd.ChannelError
			want := uint64(1)
			if n > len(wires[0]) {
				want = 2
			}
			if !errors.Is(err, multifd.ErrTruncated) || !errors.As(err, &ce) || ce.Packet != want {
				t.Fatalf("after %d bytes of %d: %v; want ErrTruncated in packet %d", n, len(wire), err, want)
			}
		}
	})
}

func TestFlags_Names(t *testing.T) {
	for f, want := range map[multifd.Flags]string{
		0: "none", multifd.FlagSync: "SYNC", multifd.FlagSync | multifd.FlagZlib: "SYNC|zlib",
		multifd.FlagQPL: "qpl", multifd.FlagDeviceState | 0x100: "DEVICE_STATE|0x100",
	} {
		if got := f.String(); got != want {
			t.Errorf("%#x is %q, want %q", uint32(f), got, want)
		}
	}
}
