package linkwire

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/multifd"
)

// TestSplitter_UnitsInFlightKeepTheirBytes reads units ahead, as a relay does that has
// several frames in flight.
func TestSplitter_UnitsInFlightKeepTheirBytes(t *testing.T) {
	const inFlight = 4
	for seed := range uint64(times(60, 1000)) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		stream := channelStream(rnd, 3, 65536)
		for range 6 { // packets without pages, so that headers follow each other
			h := make([]byte, multifd.HeaderLen(65536))
			putHeader(h, 1, 8, 0, 0, 0, rnd.Uint64(), "pc.ram")
			stream = append(stream, h...)
		}
		s := NewSplitter(fragments(rnd, stream, true))
		var got []byte
		units := make([]Unit, inFlight)
		take := func(u *Unit) { got = append(append(append(got, u.Bytes...), u.Header...), u.Pages...) }
		for n := 0; ; n++ {
			u := &units[n%inFlight]
			if n >= inFlight {
				take(u)
			}
			if err := s.Next(u); err != nil {
				if !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				for i := max(n-inFlight+1, 0); i < n; i++ {
					take(&units[i%inFlight])
				}
				break
			}
		}
		if !bytes.Equal(got, stream) {
			t.Fatalf("seed %d: %d of %d bytes, the first difference is at %d", seed, len(got), len(stream), firstDifference(got, stream))
		}
	}
}

func TestSplitter_RecognisesPackets(t *testing.T) {
	const pageSize = 65536
	header := func(flags uint32, normal, size int) []byte {
		h := make([]byte, multifd.HeaderLen(pageSize))
		putHeader(h, flags, 8, normal, 0, size, 1, "pc.ram")
		return h
	}
	handshake := multifd.Handshake{ID: 1}.Append(nil)
	device := make([]byte, devicestate.HeaderLen)
	copy(device, header(uint32(multifd.FlagDeviceState), 0, 0)[:prefixLen])
	device[len(device)-1] = 5
	for _, tt := range []struct {
		name    string
		packet  []byte
		packets int // with a header of their own
		pages   int
	}{
		{"pages", append(header(0, 2, 2*pageSize), make([]byte, 2*pageSize)...), 1, 2},
		{"SYNC", header(1, 0, 0), 1, 0},
		{"SYNC with the size of the packet before", header(1, 0, 9999), 1, 0},
		{"compressed", append(header(uint32(multifd.FlagZlib), 2, 700), make([]byte, 700)...), 1, 0},
		{"device state", append(device, 1, 2, 3, 4, 5), 0, 0},
		{"more pages than a packet has", header(0, 9, 9*pageSize), 0, 0},
		{"another size than that of the pages", header(0, 2, 2*pageSize-1), 0, 0},
		{"another magic", append([]byte{1}, header(0, 0, 0)[1:]...), 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			after := header(1, 0, 0) // is recognised only if the packet was
			stream := bytes.Join([][]byte{handshake, tt.packet, after}, nil)
			rnd := rand.New(rand.NewPCG(1, 1))
			s := NewSplitter(fragments(rnd, stream, false))
			var u Unit
			var got []byte
			packets, pages := 0, 0
			for s.Next(&u) == nil {
				if u.Header != nil {
					packets, pages = packets+1, pages+len(u.Pages)/u.PageSize
				}
				got = append(append(append(got, u.Bytes...), u.Header...), u.Pages...)
			}
			if !bytes.Equal(got, stream) {
				t.Error("the bytes differ")
			}
			want := tt.packets
			if tt.packets > 0 || tt.name == "device state" {
				want++
			}
			if packets != want || pages != tt.pages {
				t.Errorf("%d packets with %d pages, want %d with %d", packets, pages, want, tt.pages)
			}
		})
	}
}
