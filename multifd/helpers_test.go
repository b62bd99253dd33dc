package multifd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/multifd"
)

const page4K = 4096

// layout has two blocks that hold two full packets, and one of a page.
func layout(t testing.TB, pageSize int) *guest.Layout {
	t.Helper()
	l, err := guest.NewLayout(pageSize, []guest.Block{
		{Name: "pc.ram", Length: 2 * guest.PacketBytes},
		{Name: "pc.bios", Length: uint64(pageSize)},
		{Name: "vga.vram", Length: 2 * guest.PacketBytes},
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func memory(t testing.TB, l *guest.Layout) *guestmem.Memory {
	t.Helper()
	m, err := guestmem.New(l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func laneOf(t testing.TB, s guest.Sink) guest.Lane {
	t.Helper()
	l, err := s.Lane()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// rawPacket is a RAM packet, put together without the code under test.
type rawPacket struct {
	magic, version, flags, alloc, normal, next uint32
	num                                        uint64
	zero                                       uint32
	ramblock                                   string
	offsets                                    []uint64
	payload                                    []byte
	pageSize                                   int
}

// newRawPacket is a packet that is as it should be.
func newRawPacket(pageSize int, flags uint32, block string, normal, zero []uint64, payload []byte) rawPacket {
	return rawPacket{
		magic: 0x11223344, version: 1, flags: flags, alloc: uint32(512 << 10 / pageSize),
		normal: uint32(len(normal)), zero: uint32(len(zero)), next: uint32(len(payload)), num: 1,
		ramblock: block + "\x00", offsets: append(append([]uint64(nil), normal...), zero...), payload: payload, pageSize: pageSize,
	}
}

func (p rawPacket) bytes() []byte {
	be := binary.BigEndian
	h := make([]byte, 320+8*(512<<10/p.pageSize))
	be.PutUint32(h[0:], p.magic)
	be.PutUint32(h[4:], p.version)
	be.PutUint32(h[8:], p.flags)
	be.PutUint32(h[12:], p.alloc)
	be.PutUint32(h[16:], p.normal)
	be.PutUint32(h[20:], p.next)
	be.PutUint64(h[24:], p.num)
	be.PutUint32(h[32:], p.zero)
	copy(h[64:320], p.ramblock)
	for i, off := range p.offsets {
		be.PutUint64(h[320+8*i:], off)
	}
	return append(h, p.payload...)
}

func syncPacket(pageSize int) []byte { return newRawPacket(pageSize, 1, "", nil, nil, nil).bytes() }

// content makes pages that compress in different ways.
var contents = map[string]func(r *rand.Rand, page []byte){
	"random": func(r *rand.Rand, p []byte) { fillRandom(r, p) },
	"text": func(r *rand.Rand, p []byte) {
		words := []string{"ferry ", "guest ", "page ", "memory ", "channel ", "\n"}
		for n := 0; n < len(p); {
			n += copy(p[n:], words[r.IntN(len(words))])
		}
	},
	"zero but sent": func(_ *rand.Rand, p []byte) { clear(p) },
	"one byte":      func(r *rand.Rand, p []byte) { p[r.IntN(len(p))] = 1 },
	"half random": func(r *rand.Rand, p []byte) {
		fillRandom(r, p[:len(p)/2])
	},
}

func fillRandom(r *rand.Rand, p []byte) {
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], r.Uint64())
	}
}

var contentNames = []string{"random", "text", "zero but sent", "one byte", "half random"}

func makePage(r *rand.Rand, kind string, pageSize int) []byte {
	p := make([]byte, pageSize)
	if kind == "mixed" {
		kind = contentNames[r.IntN(len(contentNames))]
	}
	contents[kind](r, p)
	return p
}

// batch is a batch of n pages of a block, at random places, and some zero ones.
func makeBatch(r *rand.Rand, l *guest.Layout, block, kind string, normal, zero int) *guest.Batch {
	b := &guest.Batch{Block: l.Block(block)}
	for i, page := range r.Perm(int(l.Pages(b.Block)))[:normal+zero] {
		off := uint64(page * l.PageSize)
		if i >= normal {
			b.Zero = append(b.Zero, off)
			continue
		}
		b.Normal = append(b.Normal, off)
		b.Data = append(b.Data, makePage(r, kind, l.PageSize))
	}
	return b
}

// packets sends batches with a Sender and returns each packet's bytes.
func packets(t testing.TB, m multifd.Method, pageSize, level int, batches ...*guest.Batch) [][]byte {
	t.Helper()
	var buf bytes.Buffer
	var num atomic.Uint64
	s, err := multifd.NewSender(&buf, m, &num, multifd.ChannelConfig{Channel: 3, PageSize: pageSize, Level: level})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var out [][]byte
	for _, b := range batches {
		if err := s.Send(b); err != nil {
			t.Fatal(err)
		}
		out = append(out, bytes.Clone(buf.Bytes()))
		buf.Reset()
	}
	return out
}

// receiver reads the wire as channel 3.
func receiver(t testing.TB, r io.Reader, m multifd.Method, l *guest.Layout) *multifd.Receiver {
	t.Helper()
	rc, err := multifd.NewReceiver(r, m, multifd.ChannelConfig{Channel: 3, PageSize: l.PageSize})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rc.Close)
	rc.SetLayout(l)
	return rc
}

// receiveAll reads RAM packets to the end of the wire.
func receiveAll(rc *multifd.Receiver, lane guest.Lane) (n int, err error) {
	for {
		_, state, err := rc.Next()
		if err == io.EOF {
			return n, nil
		}
		if err == nil && state == nil {
			err = rc.Receive(lane)
		}
		if err != nil {
			return n, err
		}
		n++
	}
}

// wantChannelError checks an error of channel 3.
func wantChannelError(t testing.TB, err error, is error, packet uint64, field string) {
	t.Helper()
	var ce *multifd.ChannelError
	if !errors.As(err, &ce) {
		t.Fatalf("got %v, want a ChannelError", err)
	}
	if !errors.Is(err, is) {
		t.Errorf("%v does not wrap %v", err, is)
	}
	if ce.Channel != 3 || ce.Packet != packet || ce.Field != field {
		t.Errorf("the error is of channel %d, packet %d, field %q; want 3, %d, %q (%v)", ce.Channel, ce.Packet, ce.Field, packet, field, err)
	}
}

// checkMemory compares a block with what the batches said, the last winning.
func checkMemory(t testing.TB, m *guestmem.Memory, batches ...*guest.Batch) {
	t.Helper()
	want := map[string][]byte{}
	for _, b := range m.Layout().Blocks {
		want[b.Name] = make([]byte, b.Length)
	}
	size := m.Layout().PageSize
	for _, b := range batches {
		for i, off := range b.Normal {
			copy(want[b.Block.Name][off:], b.Data[i])
		}
		for _, off := range b.Zero {
			clear(want[b.Block.Name][off:][:size])
		}
	}
	for _, b := range m.Layout().Blocks {
		if got := m.Bytes(b); !bytes.Equal(got, want[b.Name]) {
			t.Errorf("block %s differs first in page %d", b.Name, firstDifference(got, want[b.Name])/size)
		}
	}
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

func offsets(pageSize int, pages ...int) []uint64 {
	var out []uint64
	for _, p := range pages {
		out = append(out, uint64(p*pageSize))
	}
	return out
}

func seeded(name string) *rand.Rand {
	var seed [32]byte
	copy(seed[:], name)
	return rand.New(rand.NewChaCha8(seed))
}

func forMethods(t *testing.T, f func(t *testing.T, m multifd.Method)) {
	for _, m := range multifd.Methods() {
		t.Run(m.Name(), func(t *testing.T) { f(t, m) })
	}
}

func sizeName(n int) string { return fmt.Sprintf("%d KiB pages", n>>10) }
