package multifd_test

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/adler32"
	"io"
	"slices"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
)

// rawDeflate is what the standard library makes of a page.
func rawDeflate(t testing.TB, page []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := flate.NewWriter(&buf, 6)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(page)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zlibStream(t testing.TB, page []byte) []byte {
	t.Helper()
	out := append([]byte{0x78, 0x9c}, rawDeflate(t, page)...)
	return binary.BigEndian.AppendUint32(out, adler32.Checksum(page))
}

// framed is the payload of qpl and uadk: big-endian lengths, then the data.
func framed(pages ...[]byte) []byte {
	var out []byte
	for _, p := range pages {
		out = binary.BigEndian.AppendUint32(out, uint32(len(p)))
	}
	return append(out, slices.Concat(pages...)...)
}

// unframe takes such a payload apart.
func unframe(t testing.TB, payload []byte, n int) [][]byte {
	t.Helper()
	var out [][]byte
	data := payload[4*n:]
	for i := range n {
		length := binary.BigEndian.Uint32(payload[4*i:])
		out = append(out, data[:length])
		data = data[length:]
	}
	if len(data) != 0 {
		t.Errorf("%d bytes follow the pages", len(data))
	}
	return out
}

func TestPerPage_PagesAreCompressedOneByOne(t *testing.T) {
	l := layout(t, page4K)
	b := makeBatch(seeded("one by one"), l, "pc.ram", "mixed", 100, 0)
	for _, tt := range []struct {
		method multifd.Method
		open   func(io.Reader) (io.ReadCloser, error)
	}{
		{multifd.QPL, func(r io.Reader) (io.ReadCloser, error) { return flate.NewReader(r), nil }},
		{multifd.UADK, func(r io.Reader) (io.ReadCloser, error) { return zlib.NewReader(r) }}, // which checks the Adler-32
	} {
		t.Run(tt.method.Name(), func(t *testing.T) {
			wire := packets(t, tt.method, page4K, 0, b)[0]
			raw := 0
			for i, data := range unframe(t, wire[multifd.HeaderLen(page4K):], 100) {
				if len(data) == page4K {
					raw++
					if !bytes.Equal(data, b.Data[i]) {
						t.Errorf("page %d is sent raw but is not the page", i)
					}
					continue
				}
				in := bytes.NewReader(data)
				z, err := tt.open(in)
				if err != nil {
					t.Fatalf("page %d: %v", i, err)
				}
				got, err := io.ReadAll(z)
				if err != nil || !bytes.Equal(got, b.Data[i]) || in.Len() != 0 {
					t.Errorf("page %d: %d bytes, %v, %d bytes left over", i, len(got), err, in.Len())
				}
			}
			if raw == 0 || raw == 100 {
				t.Errorf("%d of 100 mixed pages are raw", raw)
			}
		})
	}
}

func TestPerPage_PageThatDoesNotShrinkIsSentRaw(t *testing.T) {
	for _, m := range []multifd.Method{multifd.QPL, multifd.UADK} {
		for _, pageSize := range []int{4 << 10, 64 << 10} {
			l := layout(t, pageSize)
			b := makeBatch(seeded("raw"), l, "pc.ram", "random", 4, 0)
			wire := packets(t, m, pageSize, 0, b)[0]
			if want := framed(b.Data...); !bytes.Equal(wire[multifd.HeaderLen(pageSize):], want) {
				t.Errorf("%s, %s: the payload is not four lengths of a page and the pages", m.Name(), sizeName(pageSize))
			}
		}
	}
}

func TestPerPage_PagesOfAnotherEncoderAreReceived(t *testing.T) {
	l := layout(t, page4K)
	b := makeBatch(seeded("another encoder"), l, "pc.ram", "mixed", 50, 0)
	encode := map[multifd.Method]func(testing.TB, []byte) []byte{multifd.QPL: rawDeflate, multifd.UADK: zlibStream}
	for m, f := range encode {
		var data [][]byte
		for _, page := range b.Data {
			if z := f(t, page); len(z) < page4K {
				page = z
			}
			data = append(data, page)
		}
		p := newRawPacket(page4K, uint32(m.Flag()), "pc.ram", b.Normal, nil, framed(data...))
		mem := memory(t, l)
		if _, err := receiveAll(receiver(t, bytes.NewReader(p.bytes()), m, l), laneOf(t, mem)); err != nil {
			t.Fatalf("%s: %v", m.Name(), err)
		}
		checkMemory(t, mem, b)
	}
}

func TestPerPage_PayloadsAreChecked(t *testing.T) {
	page := bytes.Repeat([]byte("text "), 820)[:page4K]
	short := page[:page4K-1]
	long := append(bytes.Clone(page), 'x')
	be := binary.BigEndian
	with := func(b []byte, at int, v uint32) []byte {
		b = bytes.Clone(b)
		be.PutUint32(b[at:], v)
		return b
	}
	pageField := "page 2 of 2, at 0x5000 in RAM block \"pc.ram\""
	for _, method := range []multifd.Method{multifd.QPL, multifd.UADK} {
		enc := rawDeflate
		if method == multifd.UADK {
			enc = zlibStream
		}
		z := enc(t, page)
		good := framed(z, z)
		type test struct {
			name    string
			payload []byte
			field   string
		}
		tests := []test{
			{"shorter than the lengths", good[:7], "next_packet_size"},
			{"only the lengths", good[:8], "next_packet_size"},
			{"a length of 0", with(good, 4, 0), "length[1]"},
			{"a length above the page size", with(good, 0, page4K+1), "length[0]"},
			{"a length of 4 GiB", with(good, 0, ^uint32(0)), "length[0]"},
			{"little-endian lengths", with(good, 0, uint32(len(z))<<24), "length[0]"},
			{"nothing broken", good, ""},
			{"lengths that add up to too little", with(good, 4, uint32(len(z)-1)), "next_packet_size"},
			{"lengths that add up to too much", with(good, 4, uint32(len(z)+1)), "next_packet_size"},
			{"a stream that is rubbish", framed(z, bytes.Repeat([]byte{0xff}, 50)), pageField},
			{"a page that is a byte short", framed(z, enc(t, short)), pageField},
			{"a page that is a byte long", framed(z, enc(t, long)), pageField},
			{"a stream cut short", framed(z, z[:len(z)-1]), pageField},
			{"a byte behind the stream", framed(z, append(bytes.Clone(z), 0)), pageField},
			{"two streams as one page", framed(z, append(bytes.Clone(z), z...)), pageField},
		}
		if method == multifd.UADK {
			flip := func(at int, bit byte) []byte {
				b := bytes.Clone(z)
				b[(at+len(b))%len(b)] ^= bit
				return framed(z, b)
			}
			preset := bytes.Clone(z)
			preset[1] = 0x20 // with a preset dictionary
			preset[1] += byte(31 - (uint(preset[0])<<8+uint(preset[1]))%31)
			tests = append(tests,
				test{"another method in the zlib header", flip(0, 0x01), pageField},
				test{"a window above 32 KiB", flip(0, 0x80), pageField},
				test{"a wrong check of the header", flip(1, 0x01), pageField},
				test{"a preset dictionary", framed(z, preset), pageField},
				test{"a wrong Adler-32", flip(-1, 0x01), pageField},
				test{"no room for header and Adler-32", framed(z, []byte{0x78, 0x9c, 3, 0, 0}), pageField},
				test{"raw deflate without a header", framed(z, rawDeflate(t, page)), pageField},
			)
		}
		for _, tt := range tests {
			t.Run(method.Name()+"/"+tt.name, func(t *testing.T) {
				l := layout(t, page4K)
				p := newRawPacket(page4K, uint32(method.Flag()), "pc.ram", offsets(page4K, 1, 5), nil, tt.payload)
				_, err := receiveAll(receiver(t, bytes.NewReader(p.bytes()), method, l), laneOf(t, memory(t, l)))
				if tt.field == "" {
					if err != nil {
						t.Errorf("the payload that the others are broken from: %v", err)
					}
					return
				}
				wantChannelError(t, err, multifd.ErrMalformed, 1, tt.field)
			})
		}
	}
}

// keepingLane keeps deflated pages as they come, if it wants them.
type keepingLane struct {
	guest.Lane
	wants   bool
	block   *guest.Block
	offsets []uint64
	lengths []uint32
	data    []byte
}

func (l *keepingLane) KeepsDeflated() bool { return l.wants }

func (l *keepingLane) PutDeflated(b *guest.Block, offsets []uint64, lengths []uint32, data []byte) error {
	l.block, l.offsets, l.lengths, l.data = b, slices.Clone(offsets), slices.Clone(lengths), bytes.Clone(data)
	return nil
}

func TestDeflatedLane_GetsPagesAsReceived(t *testing.T) {
	l := layout(t, page4K)
	b := makeBatch(seeded("kept"), l, "vga.vram", "mixed", 128, 0)
	wire := packets(t, multifd.QPL, page4K, 0, b)[0]
	lane := &keepingLane{wants: true}
	if _, err := receiveAll(receiver(t, bytes.NewReader(wire), multifd.QPL, l), lane); err != nil {
		t.Fatal(err)
	}
	if lane.block != b.Block || !slices.Equal(lane.offsets, b.Normal) {
		t.Error("the pages are of another block or at other offsets")
	}
	var lengths []byte
	for _, n := range lane.lengths {
		lengths = binary.BigEndian.AppendUint32(lengths, n)
	}
	if !bytes.Equal(append(lengths, lane.data...), wire[multifd.HeaderLen(page4K):]) {
		t.Error("lengths and data are not the packet's payload")
	}
}

func TestDeflatedLane_CanAskForInflatedPages(t *testing.T) {
	l := layout(t, page4K)
	b := makeBatch(seeded("pages"), l, "vga.vram", "mixed", 128, 0)
	mem := memory(t, l)
	lane := &keepingLane{Lane: laneOf(t, mem)}
	if _, err := receiveAll(receiver(t, bytes.NewReader(packets(t, multifd.QPL, page4K, 0, b)[0]), multifd.QPL, l), lane); err != nil {
		t.Fatal(err)
	}
	if lane.block != nil {
		t.Error("it got deflated pages")
	}
	checkMemory(t, mem, b)
}

func TestDeflatedLane_DoesNotGetPagesThatDoNotInflate(t *testing.T) {
	l := layout(t, page4K)
	lane := &keepingLane{wants: true}
	p := newRawPacket(page4K, 8, "pc.ram", offsets(page4K, 1), nil, framed(rawDeflate(t, make([]byte, page4K-1))))
	_, err := receiveAll(receiver(t, bytes.NewReader(p.bytes()), multifd.QPL, l), lane)
	wantChannelError(t, err, multifd.ErrMalformed, 1, `page 1 of 1, at 0x1000 in RAM block "pc.ram"`)
	if lane.block != nil {
		t.Error("the lane got them all the same")
	}
}

func TestQPL_SendsDeflatedBatchesUnchanged(t *testing.T) {
	l := layout(t, page4K)
	as := bytes.Repeat([]byte("a"), page4K)
	raw := makePage(seeded("through"), "random", page4K)
	b := &guest.Batch{Block: l.Block("pc.ram"), Normal: offsets(page4K, 3, 1, 2), Data: [][]byte{deflatedAs, raw, deflatedAs}, Form: guest.Deflated}
	wire := packets(t, multifd.QPL, page4K, 0, b)[0]
	if got, want := wire[multifd.HeaderLen(page4K):], framed(b.Data...); !bytes.Equal(got, want) {
		t.Error("the payload is not what was put in")
	}
	mem := memory(t, l)
	if _, err := receiveAll(receiver(t, bytes.NewReader(wire), multifd.QPL, l), laneOf(t, mem)); err != nil {
		t.Fatal(err)
	}
	checkMemory(t, mem, &guest.Batch{Block: b.Block, Normal: b.Normal, Data: [][]byte{as, raw, as}})
}

func TestMethod_OnlyQPLTakesDeflatedBatches(t *testing.T) {
	l := layout(t, page4K)
	b := &guest.Batch{Block: l.Block("pc.ram"), Normal: offsets(page4K, 3), Data: [][]byte{deflatedAs}, Form: guest.Deflated}
	forMethods(t, func(t *testing.T, m multifd.Method) {
		var buf bytes.Buffer
		s := sender(t, &buf, m)
		takes := m == multifd.QPL
		if s.TakesDeflated() != takes {
			t.Errorf("it says %v", s.TakesDeflated())
		}
		if err := s.Send(b); (err == nil) != takes || !takes && buf.Len() != 0 {
			t.Errorf("%v, with %d bytes sent", err, buf.Len())
		}
	})
}

func TestPerPage_DenseIsSmallerThanFast(t *testing.T) {
	l := layout(t, page4K)
	b := makeBatch(seeded("dense"), l, "pc.ram", "text", 128, 0)
	for _, m := range []multifd.Method{multifd.QPL, multifd.UADK} {
		fast, dense := len(packets(t, m, page4K, 1, b)[0]), len(packets(t, m, page4K, multifd.LevelDense, b)[0])
		if dense >= fast {
			t.Errorf("%s: %d bytes dense, %d fast", m.Name(), dense, fast)
		}
	}
}

func TestPerPage_ErrorNamesThePage(t *testing.T) {
	l := layout(t, page4K)
	p := newRawPacket(page4K, 8, "pc.ram", offsets(page4K, 1), nil, framed([]byte{0xff}))
	_, err := receiveAll(receiver(t, bytes.NewReader(p.bytes()), multifd.QPL, l), laneOf(t, memory(t, l)))
	if err == nil || errors.Is(err, multifd.ErrTruncated) {
		t.Errorf("a page that cannot be inflated is no truncated channel: %v", err)
	}
	if want := fmt.Sprintf("multifd channel 3: packet 1: page 1 of 1, at %#x", 0x1000); err != nil && !bytes.HasPrefix([]byte(err.Error()), []byte(want)) {
		t.Errorf("the message %q does not begin with %q", err, want)
	}
}
