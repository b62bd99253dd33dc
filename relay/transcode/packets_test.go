package transcode

import (
	"bytes"
	"encoding/binary"
	"errors"

	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/internal/soak"
	"github.com/vmferry/vmferry/multifd"
)

// pagesOf decodes the pages of a channel of a method, packet by packet.
func pagesOf(t testing.TB, wire []byte, method multifd.Method) []byte {
	t.Helper()
	raw, err := carryBytes(t, bytes.NewReader(wire), Config{In: method})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestCarry_HeadersStayAndPagesAreTheSame(t *testing.T) {
	for _, in := range multifd.Methods() {
		for _, out := range multifd.Methods() {
			t.Run(in.Name()+" to "+out.Name(), func(t *testing.T) {
				p := newPackets(t, in, page4K)
				sent := onWire(p.sync(), p.data(5, 2), p.data(0, 7), deviceState(t, 0), p.data(128, 0), p.sync(), deviceState(t, 200_000), p.data(1, 0))
				arrived, err := carryBytes(t, &fragments{sent, rand.New(rand.NewPCG(3, 4))}, Config{In: in, Out: out})
				if err != nil {
					t.Fatal(err)
				}
				wantSameHeaders(t, sent, arrived)
				if !bytes.Equal(pagesOf(t, arrived, out), pagesOf(t, sent, in)) {
					t.Error("other pages arrive")
				}
			})
		}
	}
}

// methodsAndSizes are the method bits and next_packet_size of the RAM packets of a channel.
func methodsAndSizes(wire []byte) (list [][2]uint32) {
	be := binary.BigEndian
	for wire = wire[64:]; len(wire) > 0; {
		size := be.Uint32(wire[20:])
		list = append(list, [2]uint32{be.Uint32(wire[8:]) & uint32(multifd.FlagMethods), size})
		n := multifd.HeaderLen(page4K)
		if be.Uint32(wire[16:]) > 0 {
			n += int(size)
		}
		wire = wire[n:]
	}
	return list
}

// QEMU's destination looks for its method in each packet with pages, and insists on a
// next_packet_size of 0 in one with zero pages only.
func TestCarry_PacketsHaveTheMethodOfTheDestination(t *testing.T) {
	p := newPackets(t, multifd.Zstd, page4K)
	sync, zero, data := p.sync(), put(p.data(0, 3), 20, 77), p.data(2, 1)
	empty := put(put(sync, 8, 0), 20, 4711) // QEMU 7.2 leaves the size of the packet before
	withMethod := put(sync, 8, uint32(multifd.FlagSync|multifd.FlagZstd))
	arrived, err := carryBytes(t, bytes.NewReader(onWire(sync, zero, empty, data, withMethod)), Config{In: multifd.Zstd, Out: multifd.None})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := methodsAndSizes(arrived), [][2]uint32{{0, 0}, {0, 0}, {0, 0}, {0, 2 * page4K}, {0, 0}}; !slices.Equal(got, want) {
		t.Errorf("to none: methods and sizes %v, want %v", got, want)
	}
	back, err := carryBytes(t, bytes.NewReader(arrived), Config{Out: multifd.Zlib})
	if err != nil {
		t.Fatal(err)
	}
	zlib := uint32(multifd.FlagZlib)
	got := methodsAndSizes(back)
	if got[3][1] == 0 || got[3][1] >= 2*page4K {
		t.Errorf("to zlib: the payload has %d bytes", got[3][1])
	}
	got[3][1] = 0
	if want := [][2]uint32{{0, 0}, {zlib, 0}, {0, 0}, {zlib, 0}, {0, 0}}; !slices.Equal(got, want) {
		t.Errorf("to zlib: methods and sizes %v, want %v", got, want)
	}
}

func TestCarry_QuirksOfQEMUStay(t *testing.T) {
	p := newPackets(t, multifd.UADK, page4K)
	unused := p.data(3, 1)
	for i := 36; i < 64; i++ { // and the bytes behind the name, and behind the offsets
		unused[i] = byte(i)
	}
	copy(unused[64+10:], "garbage")
	copy(unused[320+8*100:], "more of it")
	syncOnData := p.data(4, 0)
	syncOnData = put(syncOnData, 8, binary.BigEndian.Uint32(syncOnData[8:])|1)
	future := p.data(1, 0)
	future = put(future, 8, binary.BigEndian.Uint32(future[8:])|0x400)
	for name, sent := range map[string][]byte{
		"SYNC on a data packet, as in 7.2":     onWire(p.sync(), syncOnData, put(put(p.sync(), 8, 0), 20, 99)),
		"pages_alloc 0 in a SYNC, as in 11.1":  onWire(put(p.sync(), 12, 0), put(p.sync(), 12, 0)),
		"unused bytes":                         onWire(unused),
		"a flag of the future":                 onWire(future),
		"nothing but the handshake":            onWire(),
		"a handshake with bytes in its unused": append(onWire()[:40], bytes.Repeat([]byte{9}, 24)...),
	} {
		arrived, err := carryBytes(t, bytes.NewReader(sent), Config{In: multifd.UADK, Out: multifd.QPL})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wantSameHeaders(t, sent, arrived)
	}
}

func TestCarry_PageSizeComesFromTheFirstPacket(t *testing.T) {
	for _, size := range []int{1 << 10, 4 << 10, 16 << 10, 64 << 10} {
		p := newPackets(t, multifd.Zstd, size)
		sent := onWire(p.sync(), p.data(3, 2), p.data(0, 1), p.data(512<<10/size, 0))
		arrived, err := carryBytes(t, bytes.NewReader(sent), Config{In: multifd.Zstd, Out: multifd.QATzip})
		if err != nil {
			t.Fatalf("pages of %d bytes: %v", size, err)
		}
		wantSameHeaders(t, sent, arrived)
	}
	// A SYNC of QEMU 11.1 does not show the size.
	p := newPackets(t, multifd.None, 16<<10)
	sent := onWire(put(p.sync(), 12, 0), p.data(2, 0))
	arrived, err := carryBytes(t, bytes.NewReader(sent), Config{Out: multifd.Zlib, PageSize: 16 << 10})
	if err != nil || len(arrived) < 64+2*multifd.HeaderLen(16<<10) {
		t.Errorf("%d bytes arrive, error %v", len(arrived), err)
	}
}

func TestCarry_MalformedPacketsAreNamed(t *testing.T) {
	p := newPackets(t, multifd.QPL, page4K)
	good, sync := p.data(4, 2), p.sync()
	noName := bytes.Clone(good)
	clear(noName[64:320])
	longName := bytes.Clone(good)
	copy(longName[64:320], bytes.Repeat([]byte("x"), 256))
	badState := deviceState(t, 10)
	badState[12] = 0
	for _, tt := range []struct {
		name, field string
		packet      []byte
	}{
		{"magic", "magic", put(good, 0, 7)},
		{"version", "version", put(good, 4, 2)},
		{"another method", "flags", put(good, 8, uint32(multifd.FlagZlib))},
		{"two methods", "flags", put(good, 8, uint32(multifd.FlagZlib|multifd.FlagQPL))},
		{"no method with data", "flags", put(good, 8, 0)},
		{"pages_alloc too large", "pages_alloc", put(good, 12, 1<<31)},
		{"pages_alloc no power of two", "pages_alloc", put(good, 12, 127)},
		{"pages_alloc of other pages", "pages_alloc", put(good, 12, 64)},
		{"normal_pages", "normal_pages", put(good, 16, 129)},
		{"zero_pages", "zero_pages", put(good, 32, 125)},
		{"next_packet_size 0", "next_packet_size", put(good, 20, 0)},
		{"next_packet_size huge", "next_packet_size", put(good, 20, 0xffffffff)},
		{"next_packet_size of lengths", "next_packet_size", put(good, 20, 12)},
		{"a page's length", "length[0]", put(good, multifd.HeaderLen(page4K), page4K+1)},
		{"block without a name", "ramblock", noName},
		{"name without an end", "ramblock", longName},
		{"device without a name", "idstr", badState},
	} {
		arrived, err := carryBytes(t, bytes.NewReader(onWire(sync, tt.packet, good)), Config{In: multifd.QPL, Out: multifd.Zstd})
		var ce *multifd.ChannelError
		if !errors.As(err, &ce) || !errors.Is(err, multifd.ErrMalformed) {
			t.Errorf("%s: error %v, want a malformed packet", tt.name, err)
			continue
		}
		if ce.Channel != 3 || ce.Packet != 2 || ce.Field != tt.field {
			t.Errorf("%s: the error names channel %d, packet %d, field %q: %v", tt.name, ce.Channel, ce.Packet, ce.Field, err)
		}
		if !bytes.Equal(arrived, onWire(sync)) {
			t.Errorf("%s: %d bytes arrive", tt.name, len(arrived))
		}
	}
	_, err := carryBytes(t, bytes.NewReader(onWire(put(good, 12, 0))), Config{In: multifd.QPL})
	if err == nil || !strings.Contains(err.Error(), "channel 3: packet 1: pages_alloc") {
		t.Errorf("pages_alloc 0 with pages: error %v", err)
	}
}

func TestCarry_RAMBlocksAreBounded(t *testing.T) {
	p := newPackets(t, multifd.None, page4K)
	zero := p.data(0, 1)
	wire := onWire()
	for i := range 4097 {
		binary.BigEndian.PutUint32(zero[64:], uint32(i)|0x01010101<<3)
		zero[67], zero[66] = 'a'+byte(i%16), 'a'+byte(i>>4%16)
		zero[65], zero[64] = 'a'+byte(i>>8%16), 'a'+byte(i>>12)
		wire = append(wire, zero...)
	}
	_, err := carryBytes(t, bytes.NewReader(wire), Config{})
	if err == nil || !strings.Contains(err.Error(), "packet 4097: ramblock: ") || !errors.Is(err, multifd.ErrMalformed) {
		t.Errorf("error %v", err)
	}
}

// Truncated streams end with an error, or between packets as the source ended them.
func TestCarry_TruncatedStreamsEnd(t *testing.T) {
	p := newPackets(t, multifd.UADK, page4K)
	parts := [][]byte{p.sync(), p.data(3, 1), deviceState(t, 100), p.sync()}
	sent := onWire(parts...)
	between := map[int]bool{}
	for n, at := 0, 64; ; n++ {
		between[at] = true
		if n == len(parts) {
			break
		}
		at += len(parts[n])
	}
	for n := 64; n <= len(sent); n += 1 + n%7 {
		arrived, err := carryBytes(t, bytes.NewReader(sent[:n]), Config{In: multifd.UADK, Out: multifd.None})
		if between[n] {
			if err != nil {
				t.Errorf("after %d bytes: %v", n, err)
			}
			continue
		}
		if !errors.Is(err, multifd.ErrTruncated) {
			t.Errorf("after %d bytes: error %v", n, err)
		}
		if !bytes.HasPrefix(arrived, sent[:64]) {
			t.Errorf("after %d bytes: no handshake arrives", n)
		}
	}
}

// transcodeOrFail carries a stream of any bytes. What arrives without an error can be
// carried back; an error says where.
func transcodeOrFail(t testing.TB, wire []byte, in, out multifd.Method) {
	t.Helper()
	arrived, err := carryBytes(t, bytes.NewReader(wire), Config{In: in, Out: out})
	if err == nil {
		if len(wire) < 8 || binary.BigEndian.Uint64(wire) != multifd.Magic<<32|multifd.Version {
			if !bytes.Equal(arrived, wire) {
				t.Errorf("%d bytes of no multifd channel arrive changed", len(wire))
			}
			return
		}
		if len(wire) < 64 {
			return
		}
		wantSameHeaders(t, wire, arrived)
		back, err := carryBytes(t, bytes.NewReader(arrived), Config{In: out, Out: in})
		if err != nil {
			t.Errorf("what arrives cannot be carried back: %v", err)
		}
		wantSameHeaders(t, wire, back)
		return
	}
	var ce *multifd.ChannelError
	if !errors.As(err, &ce) || ce.Channel != int(wire[24]) || ce.Packet == 0 || ce.Field == "" {
		t.Errorf("%v does not say where", err)
	}
	if !errors.Is(err, multifd.ErrMalformed) && !errors.Is(err, multifd.ErrTruncated) {
		t.Errorf("%v does not say that the stream is at fault", err)
	}
}

func TestCarry_MutatedStreamsEnd(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, in := range multifd.Methods() {
		p := newPackets(t, in, 64<<10)
		sent := onWire(p.sync(), p.data(1, 1), deviceState(t, 40), p.data(2, 0), p.sync())
		headers := []int{0, 64, 64 + len(p.sync())}
		for range soak.Times(60, 5000) {
			wire := bytes.Clone(sent)
			for range 1 + r.IntN(3) {
				at := r.IntN(len(wire))
				if r.IntN(2) == 0 { // where fields are
					at = min(headers[r.IntN(len(headers))]+r.IntN(80), len(wire)-1)
				}
				wire[at] ^= byte(1 << r.IntN(8))
			}
			transcodeOrFail(t, wire, in, multifd.Methods()[r.IntN(len(multifd.Methods()))])
		}
	}
}
