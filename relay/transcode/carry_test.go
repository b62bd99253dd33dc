package transcode

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/socketpair"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
)

// hang only prevents that a test hangs.
const hang = 2 * time.Minute

// relayed is a connection from a source over Carry to a destination.
type relayed struct {
	source, destination net.Conn
	done                chan error
}

// tcpPair is two ends of a TCP connection.
func tcpPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// overCarry connects a source and a destination.
func overCarry(t *testing.T, ctx context.Context, network string, cfg Config) relayed {
	t.Helper()
	pair := func() (net.Conn, net.Conn) { return socketpair.New(t) }
	if network == "tcp" {
		pair = func() (net.Conn, net.Conn) { return tcpPair(t) }
	}
	source, arriving := pair()
	leaving, destination := pair()
	for _, c := range []net.Conn{source, destination} {
		c.SetDeadline(time.Now().Add(hang))
	}
	r := relayed{source, destination, make(chan error, 1)}
	go func() { r.done <- Carry(ctx, arriving, leaving, cfg) }()
	return r
}

func (r relayed) ended(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(hang):
		t.Fatal("Carry does not end")
		return nil
	}
}

func send(t *testing.T, conn net.Conn, b []byte) {
	t.Helper()
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, conn net.Conn, b []byte) {
	t.Helper()
	got := make([]byte, len(b))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, b) {
		t.Fatalf("%q arrives, want %q (%v)", got, b, err)
	}
}

func wantEnd(t *testing.T, conn net.Conn) {
	t.Helper()
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("read %d bytes, error %v; want the end", n, err)
	}
}

func closeWriteOf(conn net.Conn) { conn.(interface{ CloseWrite() error }).CloseWrite() }

var networks = []string{"unix", "tcp"}

// The channel of postcopy preemption says nothing until the switchover; a destination
// may answer before.
func TestCarry_SilentConnectionFlowsBackwards(t *testing.T) {
	for _, network := range networks {
		r := overCarry(t, t.Context(), network, Config{In: multifd.Zstd})
		send(t, r.destination, []byte("request"))
		want(t, r.source, []byte("request"))
		// Each byte passes as it comes, even where it could begin a multifd channel.
		for _, b := range []byte{0x11, 0x22, 0x33, 0x44, 0, 0, 0, 2} {
			send(t, r.source, []byte{b})
			want(t, r.destination, []byte{b})
		}
		closeWriteOf(r.source)
		wantEnd(t, r.destination)
		send(t, r.destination, []byte("late answer"))
		closeWriteOf(r.destination)
		want(t, r.source, []byte("late answer"))
		wantEnd(t, r.source)
		if err := r.ended(t); err != nil {
			t.Errorf("%s: %v", network, err)
		}
	}
}

func TestCarry_MainChannelPassesBothWays(t *testing.T) {
	main := recordings(t)["zlib"].conns[0]
	for _, network := range networks {
		r := overCarry(t, t.Context(), network, Config{In: multifd.Zlib, Out: multifd.QPL})
		go func() {
			r.source.Write(main)
			closeWriteOf(r.source)
		}()
		send(t, r.destination, []byte("return path"))
		closeWriteOf(r.destination)
		if got, err := io.ReadAll(r.destination); err != nil || !bytes.Equal(got, main) {
			t.Errorf("%s: %d bytes of %d arrive (%v)", network, len(got), len(main), err)
		}
		if got, err := io.ReadAll(r.source); err != nil || string(got) != "return path" {
			t.Errorf("%s: %q comes back (%v)", network, got, err)
		}
		if err := r.ended(t); err != nil {
			t.Errorf("%s: %v", network, err)
		}
	}
}

// A destination closes its channels first.
func TestCarry_ChannelEndsBackwardsFirst(t *testing.T) {
	p := newPackets(t, multifd.None, page4K)
	for _, network := range networks {
		r := overCarry(t, t.Context(), network, Config{Out: multifd.Zlib})
		send(t, r.source, onWire(p.sync()))
		want(t, r.destination, onWire()[:64])
		closeWriteOf(r.destination)
		wantEnd(t, r.source)
		send(t, r.source, p.data(2, 0))
		closeWriteOf(r.source)
		rest, err := io.ReadAll(r.destination)
		if err != nil || len(rest) <= 2*multifd.HeaderLen(page4K) || len(rest) > 2*multifd.HeaderLen(page4K)+2*page4K {
			t.Errorf("%s: %d bytes arrive (%v)", network, len(rest), err)
		}
		if err := r.ended(t); err != nil {
			t.Errorf("%s: %v", network, err)
		}
	}
}

// failing writes until the connection breaks.
func failing(t *testing.T, conn net.Conn) {
	t.Helper()
	b := make([]byte, 1<<16)
	for {
		if _, err := conn.Write(b); err != nil {
			if errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "timeout") {
				t.Errorf("the connection does not break: %v", err)
			}
			return
		}
	}
}

func TestCarry_MalformedPacketBreaksTheSourcesPipe(t *testing.T) {
	for _, network := range networks {
		r := overCarry(t, t.Context(), network, Config{})
		send(t, r.source, onWire(make([]byte, 400)))
		failing(t, r.source)
		if err := r.ended(t); !errors.Is(err, multifd.ErrMalformed) {
			t.Errorf("%s: error %v", network, err)
		}
		want(t, r.destination, onWire())
		if n, err := r.destination.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%s: the destination reads %d bytes, error %v", network, n, err)
		} else if network == "tcp" && err == io.EOF {
			t.Errorf("the destination sees the end of the stream, want a failure")
		}
	}
}

func TestCarry_DestinationThatDiesBreaksTheSourcesPipe(t *testing.T) {
	p := newPackets(t, multifd.None, page4K)
	for _, network := range networks {
		for name, sent := range map[string][]byte{"main": []byte("QEVM"), "channel": onWire(p.sync())} {
			r := overCarry(t, t.Context(), network, Config{})
			send(t, r.source, sent)
			want(t, r.destination, sent)
			r.destination.Close()
			packet := p.data(128, 0)
			for {
				if _, err := r.source.Write(packet); err != nil {
					break
				}
			}
			if err := r.ended(t); err == nil {
				t.Errorf("%s, %s: no error", network, name)
			}
		}
	}
}

// A destination that fails says so over the return path, then closes a connection that
// it has not read to the end.
func TestCarry_LastWordsOfTheDestinationArrive(t *testing.T) {
	for _, network := range networks {
		r := overCarry(t, t.Context(), network, Config{})
		send(t, r.source, []byte("QEVM"))
		want(t, r.destination, []byte("QEVM"))
		words := bytes.Repeat([]byte("SHUT"), 4000)
		send(t, r.destination, words)
		r.destination.Close()
		for {
			if _, err := r.source.Write(make([]byte, 1<<16)); err != nil {
				break
			}
		}
		got, _ := io.ReadAll(r.source)
		if !bytes.Equal(got, words) {
			t.Errorf("%s: %d bytes of %d arrive", network, len(got), len(words))
		}
		if err := r.ended(t); err == nil {
			t.Errorf("%s: no error", network)
		}
	}
}

func TestCarry_SourceThatDiesEndsTheDestination(t *testing.T) {
	p := newPackets(t, multifd.None, page4K)
	sent := onWire(p.data(3, 0))
	for _, network := range networks {
		r := overCarry(t, t.Context(), network, Config{})
		send(t, r.source, sent[:len(sent)-10])
		want(t, r.destination, sent[:64])
		r.source.Close()
		if got, _ := io.ReadAll(r.destination); len(got) != 0 {
			t.Errorf("%s: %d bytes of an incomplete packet arrive", network, len(got))
		}
		if err := r.ended(t); !errors.Is(err, multifd.ErrTruncated) {
			t.Errorf("%s: error %v", network, err)
		}
	}
	r := overCarry(t, t.Context(), "tcp", Config{})
	send(t, r.source, []byte("QEVM"))
	want(t, r.destination, []byte("QEVM"))
	r.source.(*net.TCPConn).SetLinger(0)
	r.source.Close()
	if n, err := r.destination.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("after a reset the destination reads %d bytes, error %v", n, err)
	}
	if err := r.ended(t); err == nil {
		t.Error("no error after a reset")
	}
}

// A TLS connection that is closed in order ends the stream.
func TestReset_TLSConnectionFails(t *testing.T) {
	here, there := tcpPair(t)
	transport.Reset(tls.Client(here, &tls.Config{}))
	there.SetDeadline(time.Now().Add(hang))
	if n, err := there.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("the peer reads %d bytes, error %v", n, err)
	}
}

func TestCarry_EndsWithItsContext(t *testing.T) {
	stopped := errors.New("the relay stops")
	for _, sent := range []string{"", "QEVM", "\x11\x22", string(onWire()), string(onWire(make([]byte, 0))) + "\x11\x22\x33"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		r := overCarry(t, ctx, "unix", Config{})
		if sent != "" {
			send(t, r.source, []byte(sent))
			want(t, r.destination, []byte(sent[:min(len(sent), 64)]))
		}
		cancel(stopped)
		if err := r.ended(t); !errors.Is(err, stopped) {
			t.Errorf("after %q: error %v", sent, err)
		}
		if _, err := r.source.Read(make([]byte, 1)); err == nil {
			t.Errorf("after %q: the source's connection is open", sent)
		}
	}
}

func TestCarry_RefusesWrongConfigurations(t *testing.T) {
	for _, cfg := range []Config{{Level: 3}, {Out: multifd.Zlib, Level: 10}, {PageSize: 100}, {PageSize: 3000}, {PageSize: 1 << 20}} {
		r := overCarry(t, t.Context(), "unix", cfg)
		if err := r.ended(t); err == nil || !strings.HasPrefix(err.Error(), "transcode: ") {
			t.Errorf("%+v: error %v", cfg, err)
		}
		wantEnd(t, r.source)
		wantEnd(t, r.destination)
	}
}
