package transcode

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/testfiles"
	"github.com/vmferry/vmferry/multifd"
)

const page4K = 4096

// recording is a migration as it went over the wire: conns[0] is the main channel.
type recording struct {
	conns [][]byte
	ram0  string // SHA-256 of the memory that arrived
}

// recordings are the recorded migrations by their methods' names.
func recordings(t testing.TB) map[string]recording {
	t.Helper()
	dirs, err := filepath.Glob("../../migration/testdata/captures/synthetic-*-2ch")
	if err != nil || len(dirs) != 5 {
		t.Fatalf("%d recordings, want 5 (%v)", len(dirs), err)
	}
	all := map[string]recording{}
	for _, dir := range dirs {
		var rec recording
		for _, name := range []string{"conn0", "conn1", "conn2"} {
			rec.conns = append(rec.conns, testfiles.Unzstd(t, filepath.Join(dir, name+".src.zst")))
		}
		sum, err := os.ReadFile(filepath.Join(dir, "ram0.sha256"))
		if err != nil {
			t.Fatal(err)
		}
		rec.ram0 = strings.Fields(string(sum))[0]
		all[strings.Split(filepath.Base(dir), "-")[1]] = rec
	}
	return all
}

// memoryConn is a connection that reads given bytes and keeps what is written.
type memoryConn struct {
	net.Conn // nil
	in       io.Reader
	out      bytes.Buffer
	ended    bool // by CloseWrite
}

func (c *memoryConn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *memoryConn) Write(p []byte) (int, error) { return c.out.Write(p) }
func (c *memoryConn) CloseWrite() error           { c.ended = true; return nil }
func (c *memoryConn) Close() error                { return nil }

// carryBytes carries what a source sends, and returns what reaches the destination.
func carryBytes(t testing.TB, sent io.Reader, cfg Config) ([]byte, error) {
	t.Helper()
	source, destination := &memoryConn{in: sent}, &memoryConn{in: strings.NewReader("")}
	err := Carry(context.Background(), source, destination, cfg)
	if err == nil && !destination.ended {
		t.Error("the destination sees no half-close")
	}
	return destination.out.Bytes(), err
}

// fragments reads a stream in pieces of random lengths.
type fragments struct {
	rest []byte
	r    *rand.Rand
}

func (f *fragments) Read(p []byte) (int, error) {
	if len(f.rest) == 0 {
		return 0, io.EOF
	}
	n := min(1+f.r.IntN(3000), len(p), len(f.rest))
	if f.r.IntN(4) == 0 {
		n = min(1+f.r.IntN(7), n)
	}
	copy(p, f.rest[:n])
	f.rest = f.rest[n:]
	return n, nil
}

// headersOf splits a channel into its handshake, the headers of its RAM packets without
// what a method decides, and whole device-state packets.
func headersOf(t testing.TB, wire []byte) (list [][]byte) {
	t.Helper()
	be := binary.BigEndian
	list, wire = append(list, wire[:64]), wire[64:]
	pageSize := page4K
	for len(wire) > 0 {
		if be.Uint32(wire[8:])&devicestate.Flag != 0 {
			n := devicestate.HeaderLen + int(be.Uint32(wire[272:]))
			list, wire = append(list, wire[:n]), wire[n:]
			continue
		}
		if alloc := be.Uint32(wire[12:]); alloc != 0 {
			pageSize = guest.PacketBytes / int(alloc)
		}
		h := bytes.Clone(wire[:multifd.HeaderLen(pageSize)])
		wire = wire[len(h):]
		if be.Uint32(h[16:]) > 0 {
			wire = wire[be.Uint32(h[20:]):]
		}
		be.PutUint32(h[8:], be.Uint32(h[8:])&^uint32(multifd.FlagMethods))
		be.PutUint32(h[20:], 0)
		list = append(list, h)
	}
	return list
}

// wantSameHeaders compares two channels but for what their methods decide.
func wantSameHeaders(t testing.TB, sent, arrived []byte) {
	t.Helper()
	want, got := headersOf(t, sent), headersOf(t, arrived)
	if len(got) != len(want) {
		t.Fatalf("%d packets arrive of %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("packet %d arrives with another header:\n%x\nwant\n%x", i, got[i], want[i])
		}
	}
}

// packets makes packets with a Sender of pages of that size.
type packets struct {
	t        testing.TB
	pageSize int
	sender   *multifd.Sender
	out      bytes.Buffer
	r        *rand.Rand
	small    bool // pages that compress to a few bytes
}

func newPackets(t testing.TB, method multifd.Method, pageSize int) *packets {
	t.Helper()
	p := &packets{t: t, pageSize: pageSize, r: rand.New(rand.NewPCG(1, 2))}
	var err error
	if p.sender, err = multifd.NewSender(&p.out, method, new(atomic.Uint64), multifd.ChannelConfig{Channel: 3, PageSize: pageSize}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.sender.Close)
	return p
}

var testBlock = &guest.Block{Name: "pc.ram", Length: 1 << 30}

// data returns a packet of pages with data and of zero pages.
func (p *packets) data(normal, zero int) []byte {
	p.t.Helper()
	b := &guest.Batch{Block: testBlock}
	for i := range normal + zero {
		offset := uint64(i * 3 * p.pageSize)
		if i >= normal {
			b.Zero = append(b.Zero, offset)
			continue
		}
		page := bytes.Repeat([]byte("page "), p.pageSize/5+1)[:p.pageSize]
		if p.small {
			page = make([]byte, p.pageSize)
		}
		for i := range page[:p.pageSize/8] {
			if !p.small || i == 1 {
				page[i] = byte(p.r.Uint32())
			}
		}
		b.Normal, b.Data = append(b.Normal, offset), append(b.Data, page)
	}
	if err := p.sender.Send(b); err != nil {
		p.t.Fatal(err)
	}
	return p.take()
}

func (p *packets) sync() []byte {
	p.t.Helper()
	if err := p.sender.Sync(); err != nil {
		p.t.Fatal(err)
	}
	return p.take()
}

func (p *packets) take() []byte {
	defer p.out.Reset()
	return bytes.Clone(p.out.Bytes())
}

// onWire is the handshake of channel 3, followed by packets.
func onWire(packets ...[]byte) []byte {
	return append(multifd.Handshake{ID: 3, UUID: [16]byte{1, 2}}.Append(nil), slices.Concat(packets...)...)
}

// deviceState is a device-state packet.
func deviceState(t testing.TB, size int) []byte {
	t.Helper()
	p := devicestate.Packet{Flags: devicestate.Flag, ID: "0000:00:05.0/vfio", Instance: 2, Data: bytes.Repeat([]byte("state"), size/5+1)[:size]}
	b, err := p.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// put changes a u32 of a packet.
func put(packet []byte, at int, v uint32) []byte {
	packet = bytes.Clone(packet)
	binary.BigEndian.PutUint32(packet[at:], v)
	return packet
}

// lockedBuffer is a buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
