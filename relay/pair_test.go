package relay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/corpus"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/relay"
)

// pair is two relays with a link between them, and a listener in place of the
// destination's QEMU.
type pair struct {
	t                   testing.TB
	source, destination *relay.Relay
	front               string // socket of the source's relay
	qemu                net.Listener
	served              chan struct{} // closed when both relays accept no more
}

func newPair(t testing.TB, cfg relay.Config) *pair {
	t.Helper()
	dir := t.TempDir()
	p := &pair{t: t, front: filepath.Join(dir, "front")}
	listen := func(network, addr string) net.Listener {
		ln, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	p.qemu = listen("unix", filepath.Join(dir, "qemu"))
	link, front := listen("tcp", "127.0.0.1:0"), listen("unix", p.front)
	var err error
	if p.source, err = relay.New(cfg); err != nil {
		t.Fatal(err)
	}
	if p.destination, err = relay.New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	dial := func(network, addr string) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		}
	}
	serving.Go(func() {
		if err := p.source.ServeSource(ctx, front, dial("tcp", link.Addr().String())); err != nil {
			t.Error(err)
		}
	})
	serving.Go(func() {
		if err := p.destination.ServeDestination(ctx, link, nil, dial("unix", p.qemu.Addr().String())); err != nil {
			t.Error(err)
		}
	})
	p.served = make(chan struct{})
	go func() { serving.Wait(); close(p.served) }()
	t.Cleanup(func() {
		cancel()
		<-p.served
		p.source.Close()
		p.destination.Close()
		p.qemu.Close()
	})
	return p
}

// connect makes a connection through the pair: its end at the source and its end at the
// destination.
func (p *pair) connect() (source, destination *net.UnixConn) {
	p.t.Helper()
	s, err := net.Dial("unix", p.front)
	if err != nil {
		p.t.Fatal(err)
	}
	p.qemu.(*net.UnixListener).SetDeadline(time.Now().Add(10 * time.Second))
	d, err := p.qemu.Accept()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { s.Close(); d.Close() })
	return s.(*net.UnixConn), d.(*net.UnixConn)
}

// exchange sends a stream each way at once, and returns what arrives. Each side ends its
// direction after its stream.
func exchange(t testing.TB, a, b *net.UnixConn, toB, toA []byte) (atB, atA []byte) {
	t.Helper()
	var all sync.WaitGroup
	put := func(c *net.UnixConn, what []byte) {
		for len(what) > 0 {
			n, err := c.Write(what[:min(len(what), 100_000)])
			if err != nil {
				t.Error(err)
				return
			}
			what = what[n:]
		}
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
	}
	get := func(c *net.UnixConn, to *[]byte) {
		var err error
		if *to, err = io.ReadAll(c); err != nil {
			t.Error(err)
		}
	}
	all.Go(func() { put(a, toB) })
	all.Go(func() { put(b, toA) })
	all.Go(func() { get(a, &atA) })
	all.Go(func() { get(b, &atB) })
	all.Wait()
	return atB, atA
}

// channelBytes is what a QEMU sends on a multifd channel: packets of raw pages.
func channelBytes(seed uint64, id uint8, packets int) []byte {
	rnd := rand.New(rand.NewPCG(seed, uint64(id)))
	b := multifd.Handshake{UUID: [16]byte{byte(seed)}, ID: id}.Append(nil)
	for n := range packets {
		const pages = 128
		h := make([]byte, multifd.HeaderLen(4096))
		copy(h, []byte{0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, pages, 0, 0, 0, pages, 0, 8, 0, 0})
		h[31] = byte(n)
		copy(h[64:], "pc.ram")
		var data []byte
		for i := range pages {
			at := (n%3*pages + i) * 4096
			for k := range 8 {
				h[320+8*i+k] = byte(at >> (56 - 8*k))
			}
			page := corpus.Generate(seed*1000+uint64(n%3*pages+i), 1)
			page[rnd.IntN(4096)]++ // the guest writes
			data = append(data, page...)
		}
		b = append(append(b, h...), data...)
	}
	return b
}

func TestRelay_KeepsEveryByteBothWays(t *testing.T) {
	for _, compression := range []relay.Compression{relay.Auto, relay.None, relay.QPL, relay.Zstd} {
		t.Run(string(compression), func(t *testing.T) {
			t.Parallel()
			p := newPair(t, relay.Config{Compression: compression, Cache: 4 << 20, CPUs: -1})
			rnd := rand.New(rand.NewPCG(1, 1))
			random := make([]byte, 1_000_000)
			for i := range random {
				random[i] = byte(rnd.Uint32())
			}
			for _, streams := range []struct {
				name     string
				toB, toA []byte
			}{
				{"nothing", nil, nil},
				{"one way", random, nil},
				{"the other way", nil, random},
				{"garbage", random, random[:1000]},
				{"channel", channelBytes(7, 0, 12), []byte("answer")},
				{"truncated channel", channelBytes(7, 1, 3)[:1_200_000], nil},
			} {
				a, b := p.connect()
				atB, atA := exchange(t, a, b, streams.toB, streams.toA)
				if !bytes.Equal(atB, streams.toB) || !bytes.Equal(atA, streams.toA) {
					t.Errorf("%s: %d of %d bytes and %d of %d bytes arrived, or others", streams.name, len(atB), len(streams.toB), len(atA), len(streams.toA))
				}
			}
			if sent := p.source.Stats().Total.Sent; compression == relay.QPL && sent.Deflated == 0 {
				t.Errorf("forms %+v: want deflated pages", sent)
			}
			if s := p.source.Stats().Total; s.Broken != 0 || s.Open != 0 && !eventually(func() bool { return p.source.Stats().Total.Open == 0 }) {
				t.Errorf("%d connections broke, %d are open", s.Broken, s.Open)
			}
		})
	}
}

// TestRelay_PagesThatComeAgainAreDifferences sends packets of the same pages, each when the
// one before has arrived: a page is a difference only if the destination's relay has
// acknowledged the page before it.
func TestRelay_PagesThatComeAgainAreDifferences(t *testing.T) {
	p := newPair(t, relay.Config{Compression: relay.QPL, Cache: 4 << 20, CPUs: -1})
	a, b := p.connect()
	stream := channelBytes(7, 0, 12)
	packet := multifd.HeaderLen(4096) + 128*4096
	head := len(stream) - 12*packet
	differences := func() bool { return p.source.Stats().Total.Sent.Difference > 0 }
	for round := 0; round < 100 && !differences(); round++ {
		next := stream[head:]
		if round == 0 {
			next = stream
		}
		for len(next) > 0 {
			n := len(next) % packet // the handshake goes first
			if n == 0 {
				n = packet
			}
			got := make([]byte, n)
			var reading sync.WaitGroup
			reading.Go(func() {
				if _, err := io.ReadFull(b, got); err != nil {
					t.Error(err)
				}
			})
			if _, err := a.Write(next[:n]); err != nil {
				t.Fatal(err)
			}
			reading.Wait()
			if !bytes.Equal(got, next[:n]) {
				t.Fatalf("round %d: other bytes arrived", round)
			}
			next = next[n:]
		}
	}
	if !differences() {
		t.Errorf("forms %+v: want differences", p.source.Stats().Total.Sent)
	}
}

func eventually(f func() bool) bool {
	for range 500 {
		if f() {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

func TestRelay_SilentConnectionReachesTheDestination(t *testing.T) {
	p := newPair(t, relay.Config{})
	a, b := p.connect() // nothing was sent
	if _, err := b.Write([]byte("the destination speaks first")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 28)
	if _, err := io.ReadFull(a, got); err != nil {
		t.Fatal(err)
	}
}

func TestRelay_ConnectionsArriveInOrder(t *testing.T) {
	p := newPair(t, relay.Config{})
	for range 20 {
		var sources []net.Conn
		for i := range 8 {
			s, err := net.Dial("unix", p.front)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			fmt.Fprintf(s, "%d", i)
			sources = append(sources, s)
		}
		for i := range sources {
			d, err := p.qemu.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			var got [1]byte
			if _, err := io.ReadFull(d, got[:]); err != nil || got[0] != '0'+byte(i) {
				t.Fatalf("connection %d arrived as number %d (error %v)", got[0]-'0', i, err)
			}
		}
	}
}

func TestRelay_BrokenConnectionBreaksTheOtherEnd(t *testing.T) {
	for _, side := range []string{"source", "destination"} {
		t.Run(side, func(t *testing.T) {
			p := newPair(t, relay.Config{})
			a, b := p.connect()
			closed, other := a, b
			if side == "destination" {
				closed, other = b, a
			}
			// What is written to a closed end breaks the connection.
			closed.Close()
			other.SetDeadline(time.Now().Add(5 * time.Second))
			var err error
			for err == nil {
				_, err = other.Write(make([]byte, 1000))
			}
			if errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("writing ended with %v, want a broken connection", err)
			}
		})
	}
}

// TestRelay_SilentLinkBreaksBothEnds lets the link stop to carry anything without an
// error, as a network does that is cut.
func TestRelay_SilentLinkBreaksBothEnds(t *testing.T) {
	cfg := relay.Config{LinkTimeout: 200 * time.Millisecond}
	source, err := relay.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	destination, err := relay.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer destination.Close()
	front, qemuA := net.Pipe()
	back, qemuB := net.Pipe()
	linkA, wireA := net.Pipe()
	linkB, wireB := net.Pipe()
	var cut atomic.Bool
	go forward(wireA, wireB, &cut)
	go forward(wireB, wireA, &cut)
	errs := make(chan error, 2)
	go func() { errs <- source.Source(t.Context(), qemuA, linkA) }()
	go func() {
		errs <- destination.Destination(t.Context(), linkB, func(context.Context) (net.Conn, error) { return qemuB, nil })
	}()
	if _, err := front.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(back, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * cfg.LinkTimeout) // without traffic the link stays up
	select {
	case err := <-errs:
		t.Fatalf("a link that works ended: %v", err)
	default:
	}
	cut.Store(true)
	for range 2 {
		select {
		case err := <-errs:
			if !errors.Is(err, relay.ErrBroken) {
				t.Errorf("error %v, want one that wraps ErrBroken", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("a silent link goes on for 100 times its timeout")
		}
	}
	for _, qemu := range []net.Conn{front, back} {
		if _, err := qemu.Read(make([]byte, 1)); err == nil {
			t.Error("QEMU's connection is not closed")
		}
	}
}

// forward copies until cut is set; after that it discards.
func forward(to, from net.Conn, cut *atomic.Bool) {
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if !cut.Load() {
			to.Write(b[:n])
		}
	}
}
