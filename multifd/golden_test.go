package multifd_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/testfiles"
	"github.com/vmferry/vmferry/multifd"
)

var update = flag.Bool("update", false, "write the golden files anew")

// dump is bytes as one reads them: 16 a line, a star for lines that repeat.
func dump(b []byte) string {
	var out strings.Builder
	var last string
	star := false
	for at := 0; at < len(b); at += 16 {
		line := b[at:min(at+16, len(b))]
		text := fmt.Sprintf("%-47s  |%s|", strings.TrimSpace(fmt.Sprintf("% x", line)), printable(line))
		if text == last && at+16 < len(b) {
			if !star {
				out.WriteString("*\n")
			}
			star = true
			continue
		}
		star, last = false, text
		fmt.Fprintf(&out, "%08x  %s\n", at, text)
	}
	fmt.Fprintf(&out, "%08x\n", len(b))
	return out.String()
}

func printable(b []byte) string {
	out := make([]byte, len(b))
	for i, c := range b {
		if out[i] = c; c < ' ' || c > '~' {
			out[i] = '.'
		}
	}
	return string(out)
}

// deflatedAs is a page of 4,096 times "a" as raw deflate. It is given here so
// that no encoder has a say in the golden files.
var deflatedAs, _ = hex.DecodeString("edc1010d000000c2a0acef5fc21e0e28000000e0dd00")

func TestWire_MatchesTheGoldenFiles(t *testing.T) {
	l := layout(t, page4K)
	uuid := [16]byte{0: 0xd5, 15: 0x01}
	as, bs := bytes.Repeat([]byte("a"), page4K), bytes.Repeat([]byte("b"), page4K)
	for _, tt := range []struct {
		name   string
		method multifd.Method
		send   func(s *multifd.Sender) error
	}{
		{"handshake", multifd.None, func(s *multifd.Sender) error { return s.Handshake(uuid) }},
		{"sync", multifd.Zstd, func(s *multifd.Sender) error { return s.Sync() }},
		{"none", multifd.None, func(s *multifd.Sender) error {
			return s.Send(&guest.Batch{Block: l.Block("pc.ram"), Normal: []uint64{0x3000, 0x1000}, Zero: []uint64{0xff000}, Data: [][]byte{as, bs}})
		}},
		{"zero-only", multifd.Zlib, func(s *multifd.Sender) error {
			return s.Send(&guest.Batch{Block: l.Block("vga.vram"), Zero: []uint64{0, 0x1000, 0x2000}})
		}},
		{"qpl", multifd.QPL, func(s *multifd.Sender) error {
			return s.Send(&guest.Batch{Block: l.Block("pc.ram"), Normal: []uint64{0x2000, 0x4000}, Data: [][]byte{deflatedAs, bs}, Form: guest.Deflated})
		}},
		{"device-state", multifd.None, func(s *multifd.Sender) error {
			return s.SendDeviceState(&devicestate.Packet{ID: "0000:00:05.0/vfio", Instance: 7, Data: []byte("state of a device")})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var buf bytes.Buffer
			var num atomic.Uint64
			num.Store(41)
			s, err := multifd.NewSender(&buf, tt.method, &num, multifd.ChannelConfig{Channel: 2, PageSize: page4K})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := tt.send(s); err != nil {
				t.Fatal(err)
			}
			if s.Bytes() != uint64(buf.Len()) {
				t.Errorf("the sender counts %d bytes of %d", s.Bytes(), buf.Len())
			}
			testfiles.Golden(t, *update, tt.name, dump(buf.Bytes()))
		})
	}
}
