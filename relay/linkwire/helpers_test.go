package linkwire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/soak"
	"github.com/vmferry/vmferry/multifd"
)

// channelStream makes what a QEMU sends on a multifd channel: a handshake, and packets of
// pages of a guest that writes to some of them, with zero pages, equal pages, SYNCs and
// other quirks.
func channelStream(rnd *rand.Rand, packets, pageSize int) []byte {
	b := multifd.Handshake{UUID: [16]byte{1, 2, 3}, ID: 1}.Append(nil)
	capacity := guest.PacketPages(pageSize)
	memory := make([][]byte, 3*capacity)
	for i := range memory {
		memory[i] = somePage(rnd, pageSize)
	}
	stale := make([]byte, multifd.HeaderLen(pageSize))
	for num := range packets {
		h := stale
		if rnd.IntN(3) > 0 {
			h = make([]byte, multifd.HeaderLen(pageSize))
		}
		normal := rnd.IntN(capacity + 1)
		zero := rnd.IntN(capacity - normal + 1)
		if rnd.IntN(8) == 0 {
			normal, zero = 0, 0
		}
		putHeader(h, uint32(rnd.IntN(2)), capacity, normal, zero, normal*pageSize, uint64(num), []string{"pc.ram", "vga.vram"}[rnd.IntN(2)])
		first := rnd.IntN(len(memory))
		var pages []byte
		for i := range normal + zero {
			at := (first + i) % len(memory)
			putOffset(h, i, uint64(at*pageSize))
			if i >= normal {
				continue
			}
			page := memory[at]
			switch rnd.IntN(4) {
			case 0: // the guest writes a little
				binary.LittleEndian.PutUint64(page[8*rnd.IntN(pageSize/8):], rnd.Uint64())
			case 1:
				copy(page, memory[rnd.IntN(len(memory))])
			case 2:
				memory[at] = somePage(rnd, pageSize)
			}
			pages = append(pages, memory[at]...)
		}
		b = append(append(b, h...), pages...)
	}
	return b
}

func somePage(rnd *rand.Rand, pageSize int) []byte {
	page := make([]byte, pageSize)
	switch rnd.IntN(4) {
	case 0:
	case 1:
		for i := range page {
			page[i] = byte(rnd.Uint32())
		}
	default:
		copy(page, bytes.Repeat(binary.LittleEndian.AppendUint64(nil, rnd.Uint64N(100)), pageSize/8))
	}
	return page
}

// times is the number of seeds of a test in an ordinary run and in a long one. Most tests
// have one goroutine: the race detector finds nothing more in many seeds than in a few.
func times(quick, long int) int {
	if raceEnabled {
		return max(1, quick/20)
	}
	return soak.Times(quick, long)
}

func putHeader(h []byte, flags uint32, alloc, normal, zero, size int, num uint64, name string) {
	be := binary.BigEndian
	be.PutUint32(h, multifd.Magic)
	be.PutUint32(h[4:], multifd.Version)
	be.PutUint32(h[flagsAt:], flags)
	be.PutUint32(h[allocAt:], uint32(alloc))
	be.PutUint32(h[normalAt:], uint32(normal))
	be.PutUint32(h[sizeAt:], uint32(size))
	be.PutUint64(h[numAt:], num)
	be.PutUint32(h[zeroAt:], uint32(zero))
	clear(h[nameAt:offsetsAt])
	copy(h[nameAt:], name)
}

func putOffset(h []byte, i int, offset uint64) {
	binary.BigEndian.PutUint64(h[offsetsAt+8*i:], offset)
}

// fragments delivers a stream in pieces of random sizes, sometimes late.
func fragments(rnd *rand.Rand, b []byte, quiet bool) Source {
	most := 1 << rnd.IntN(20)
	return func(p []byte, within time.Duration) (int, error) {
		if len(b) == 0 {
			return 0, io.EOF
		}
		if quiet && within > 0 && rnd.IntN(10) == 0 {
			return 0, ErrQuiet
		}
		n := copy(p[:min(len(p), 1+rnd.IntN(most))], b)
		b = b[n:]
		return n, nil
	}
}

// pair joins an Encoder and a Decoder.
type pair struct {
	enc     *Encoder
	dec     *Decoder
	wire    *bytes.Buffer
	packets uint64 // read
	out     []byte
	sent    int
	last    []byte // the last frame
	forms   Forms
}

func newPair(t testing.TB, cacheSize int64, pageSize int) *pair {
	p := &pair{wire: new(bytes.Buffer), enc: NewEncoder(nil)}
	p.dec = NewDecoder(p.wire, nil)
	t.Cleanup(p.enc.Close)
	t.Cleanup(p.dec.Close)
	if c := NewSenderCache(cacheSize, pageSize); c != nil {
		p.enc.UseCache(c)
		p.dec.UseCache(NewReceiverCache(cacheSize, pageSize))
	}
	return p
}

// send sends a unit, and reads it at the other end.
func (p *pair) send(t testing.TB, f *Frame) {
	t.Helper()
	if err := p.enc.Begin(f); err != nil {
		t.Fatal(err)
	}
	if err := p.enc.Finish(f); err != nil {
		t.Fatal(err)
	}
	out := net.Buffers(append([][]byte(nil), f.Out...))
	n, err := out.WriteTo(p.wire)
	if err != nil {
		t.Fatal(err)
	}
	p.sent += int(n)
	p.last = append(p.last[:0], p.wire.Bytes()...)
	p.forms.Add(f.Forms)
	var e Event
	if err := p.dec.Next(&e); err != nil {
		t.Fatal(err)
	}
	if e.Forms != f.Forms {
		t.Fatalf("forms %+v were sent, %+v were received", f.Forms, e.Forms)
	}
	if e.Kind == KindPacket {
		p.packets++
	}
	p.out = append(p.out, e.Bytes...)
	if p.wire.Len() > 0 {
		t.Fatalf("%d bytes of a frame were not read", p.wire.Len())
	}
}

// carry sends a stream through the pair with random levels.
func (p *pair) carry(t testing.TB, rnd *rand.Rand, stream []byte, quiet bool, levels ...Level) {
	t.Helper()
	p.carryFrom(t, rnd, fragments(rnd, stream, quiet), levels...)
}

func (p *pair) carryFrom(t testing.TB, rnd *rand.Rand, from Source, levels ...Level) {
	t.Helper()
	s := NewSplitter(from)
	var f Frame
	for {
		if err := s.Next(&f.Unit); err != nil {
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			return
		}
		f.Level = levels[rnd.IntN(len(levels))]
		p.send(t, &f)
		if rnd.IntN(3) == 0 {
			if err := p.enc.Acknowledge(p.packets); err != nil {
				t.Fatal(err)
			}
		}
	}
}
