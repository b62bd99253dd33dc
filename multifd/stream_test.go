package multifd_test

import (
	"bytes"
	"compress/zlib"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
)

var streamMethods = []multifd.Method{multifd.Zlib, multifd.Zstd}

func payloads(t testing.TB, m multifd.Method, batches []*guest.Batch) []byte {
	t.Helper()
	var all []byte
	for _, wire := range packets(t, m, page4K, 0, batches...) {
		all = append(all, wire[multifd.HeaderLen(page4K):]...)
	}
	return all
}

func someBatches(l *guest.Layout, name string, n int) []*guest.Batch {
	r := seeded(name)
	var batches []*guest.Batch
	for range n {
		batches = append(batches, makeBatch(r, l, "pc.ram", "mixed", 1+r.IntN(60), 0))
	}
	return batches
}

// TestStream_ChannelIsOneStream decodes all payloads end to end by another decoder,
// up to where the stream is left open.
func TestStream_ChannelIsOneStream(t *testing.T) {
	l := layout(t, page4K)
	batches := someBatches(l, "one stream", 6)
	var want []byte
	for _, b := range batches {
		want = append(want, slices.Concat(b.Data...)...)
	}
	for _, m := range streamMethods {
		t.Run(m.Name(), func(t *testing.T) {
			in := bytes.NewReader(payloads(t, m, batches))
			var z io.Reader
			var err error
			if m == multifd.Zlib {
				z, err = zlib.NewReader(in)
			} else {
				z, err = zstd.NewReader(in)
			}
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(z, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the pages are not those sent: %v", err)
			}
			if _, err := z.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("the stream goes on or is ended: %v", err)
			}
		})
	}
}

func TestStream_StateIsKeptBetweenPackets(t *testing.T) {
	l := layout(t, page4K)
	b := makeBatch(seeded("state"), l, "pc.ram", "text", 20, 0)
	for _, m := range streamMethods {
		wires := packets(t, m, page4K, 0, b, b)
		if len(wires[1]) >= len(wires[0]) {
			t.Errorf("%s: the same pages again take %d bytes, at first %d", m.Name(), len(wires[1]), len(wires[0]))
		}
		_, err := receiveAll(receiver(t, bytes.NewReader(wires[1]), m, l), laneOf(t, memory(t, l)))
		if !errors.Is(err, multifd.ErrMalformed) {
			t.Errorf("%s: the second packet without the first: %v", m.Name(), err)
		}
	}
}

// TestStream_PacketsWithoutPagesDoNotUseIt puts between the packets what
// QEMU 7.2 does: empty packets that keep the size of the packet before, and
// SYNCs on packets with data.
func TestStream_PacketsWithoutPagesDoNotUseIt(t *testing.T) {
	l := layout(t, page4K)
	batches := someBatches(l, "between", 5)
	for _, m := range streamMethods {
		t.Run(m.Name(), func(t *testing.T) {
			var wire []byte
			for i, w := range packets(t, m, page4K, 0, batches...) {
				if i%2 == 1 {
					w[11] |= 1 // SYNC
				}
				empty := newRawPacket(page4K, 0, "pc.ram", nil, nil, nil)
				empty.next = uint32(len(w) - multifd.HeaderLen(page4K))
				zero := newRawPacket(page4K, uint32(m.Flag()), "vga.vram", nil, offsets(page4K, 1, 2), nil)
				zero.next = 12345
				wire = slices.Concat(wire, w, empty.bytes(), zero.bytes(), syncPacket(page4K))
			}
			mem := memory(t, l)
			n, err := receiveAll(receiver(t, bytes.NewReader(wire), m, l), laneOf(t, mem))
			if n != 4*len(batches) || err != nil {
				t.Fatalf("%d packets of %d, %v", n, 4*len(batches), err)
			}
			checkMemory(t, mem, batches...)
		})
	}
}

// TestStream_OfAnotherEncoderIsReceived flushes as the field does: at each
// packet's last page.
func TestStream_OfAnotherEncoderIsReceived(t *testing.T) {
	l := layout(t, page4K)
	batches := someBatches(l, "another encoder", 6)
	type flusher interface {
		io.Writer
		Flush() error
	}
	for name, make := range map[string]struct {
		method multifd.Method
		new    func(w io.Writer) (flusher, error)
	}{
		"zlib, standard library, level 1": {multifd.Zlib, func(w io.Writer) (flusher, error) { return zlib.NewWriterLevel(w, 1) }},
		"zlib, standard library, level 9": {multifd.Zlib, func(w io.Writer) (flusher, error) { return zlib.NewWriterLevel(w, 9) }},
		"zlib, stored":                    {multifd.Zlib, func(w io.Writer) (flusher, error) { return zlib.NewWriterLevel(w, 0) }},
		"zstd with a large window":        {multifd.Zstd, func(w io.Writer) (flusher, error) { return zstd.NewWriter(w, zstd.WithWindowSize(8<<20)) }},
		"zstd, best": {multifd.Zstd, func(w io.Writer) (flusher, error) {
			return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var buf bytes.Buffer
			z, err := make.new(&buf)
			if err != nil {
				t.Fatal(err)
			}
			var wire []byte
			for _, b := range batches {
				for _, page := range b.Data {
					if _, err := z.Write(page); err != nil {
						t.Fatal(err)
					}
				}
				if err := z.Flush(); err != nil {
					t.Fatal(err)
				}
				wire = append(wire, newRawPacket(page4K, uint32(make.method.Flag()), "pc.ram", b.Normal, nil, buf.Bytes()).bytes()...)
				buf.Reset()
			}
			mem := memory(t, l)
			if _, err := receiveAll(receiver(t, bytes.NewReader(wire), make.method, l), laneOf(t, mem)); err != nil {
				t.Fatal(err)
			}
			checkMemory(t, mem, batches...)
		})
	}
}

func TestStream_PayloadsAreChecked(t *testing.T) {
	l := layout(t, page4K)
	b := makeBatch(seeded("checked"), l, "pc.ram", "text", 2, 0)
	for _, m := range streamMethods {
		good := payloads(t, m, []*guest.Batch{b})
		ended := func() []byte {
			var buf bytes.Buffer
			var z io.WriteCloser = zlib.NewWriter(&buf)
			if m == multifd.Zstd {
				w, err := zstd.NewWriter(&buf)
				if err != nil {
					t.Fatal(err)
				}
				z = w
			}
			z.Write(b.Data[0])
			z.Close()
			return buf.Bytes()
		}()
		for name, payload := range map[string][]byte{
			"rubbish":                     bytes.Repeat([]byte{0xa5}, 300),
			"half of it":                  good[:len(good)/2],
			"a stream that ends too soon": ended,
			"a hundred bytes behind it":   append(bytes.Clone(good), make([]byte, 100)...),
			"a header and no more":        good[:2],
			"a single byte":               good[:1],
		} {
			t.Run(m.Name()+"/"+name, func(t *testing.T) {
				p := newRawPacket(page4K, uint32(m.Flag()), "pc.ram", b.Normal, nil, payload)
				_, err := receiveAll(receiver(t, bytes.NewReader(p.bytes()), m, l), laneOf(t, memory(t, l)))
				var ce *multifd.ChannelError
				if !errors.Is(err, multifd.ErrMalformed) || !errors.As(err, &ce) || ce.Packet != 1 {
					t.Errorf("got %v", err)
				}
			})
		}
	}
}

// TestZstd_HugeWindowIsRefused: a window descriptor of 0xff asks for terabytes.
func TestZstd_HugeWindowIsRefused(t *testing.T) {
	l := layout(t, page4K)
	for name, descriptor := range map[string]byte{"64 MiB": 16 << 3, "largest": 0xff} {
		frame := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, descriptor}, 0x01, 0x00, 0x00)
		p := newRawPacket(page4K, 4, "pc.ram", offsets(page4K, 0), nil, frame)
		if _, err := receiveAll(receiver(t, bytes.NewReader(p.bytes()), multifd.Zstd, l), laneOf(t, memory(t, l))); !errors.Is(err, zstd.ErrWindowSizeExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
