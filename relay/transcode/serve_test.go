package transcode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/soak"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
)

// listen listens on a unix socket with a short path.
func listen(t testing.TB) (net.Listener, transport.Address) {
	t.Helper()
	dir, err := os.MkdirTemp("", "vf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	addr := transport.Address{Network: "unix", Addr: filepath.Join(dir, "s")}
	ln, err := addr.Listen(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln, addr
}

func dialer(addr transport.Address) transport.Dialer {
	return func(ctx context.Context) (net.Conn, error) { return addr.Dial(ctx, nil) }
}

// serve runs Serve until the test ends.
func serve(t testing.TB, dial transport.Dialer, cfg Config) transport.Address {
	t.Helper()
	ln, addr := listen(t)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, ln, dial, cfg) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(hang):
			t.Error("Serve does not end")
		}
	})
	return addr
}

// play plays a recorded migration to an address, each connection by its own.
func play(t testing.TB, addr transport.Address, conns [][]byte) {
	t.Helper()
	for _, data := range conns {
		conn, err := addr.Dial(t.Context(), nil)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { conn.Close() })
		go func() {
			conn.Write(data)
			closeWriteOf(conn)
		}()
	}
}

// TestServe_RecordedMigrationsArriveByEveryMethod relays recordings of QEMU into memory.
func TestServe_RecordedMigrationsArriveByEveryMethod(t *testing.T) {
	for name, rec := range recordings(t) {
		in, err := multifd.MethodNamed(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, out := range multifd.Methods() {
			t.Run(name+" to "+out.Name(), func(t *testing.T) {
				ln, destination := listen(t)
				cfg := Config{In: in, Out: out}
				// On the way to uadk of which there is no recording, also back.
				receiveAs := out
				if out == multifd.UADK {
					destination = serve(t, dialer(destination), Config{In: out, Out: multifd.QATzip})
					receiveAs = multifd.QATzip
				}
				relay := serve(t, dialer(destination), cfg)
				play(t, relay, rec.conns)
				mem := new(guestmem.Memory)
				if _, err := migration.Receive(t.Context(), ln, migration.ReceiveConfig{
					Wire: migration.Wire{Channels: 2, Method: receiveAs}, Sink: mem, ConnectTimeout: time.Minute,
				}); err != nil {
					t.Fatal(err)
				}
				defer mem.Close()
				sum := sha256.Sum256(mem.Bytes(mem.Layout().Block("ram0")))
				if got := hex.EncodeToString(sum[:]); got != rec.ram0 {
					t.Errorf("ram0 has the digest %s, want %s", got, rec.ram0)
				}
			})
		}
	}
}

// The packets of QEMU's recordings keep their headers.
func TestCarry_RecordedChannelsKeepTheirHeaders(t *testing.T) {
	for name, rec := range recordings(t) {
		in, err := multifd.MethodNamed(name)
		if err != nil {
			t.Fatal(err)
		}
		outs := multifd.Methods()
		if !soak.Long {
			outs = []multifd.Method{multifd.None, multifd.QPL}
		}
		for _, out := range outs {
			for _, sent := range rec.conns[1:] {
				arrived, err := carryBytes(t, bytes.NewReader(sent), Config{In: in, Out: out})
				if err != nil {
					t.Fatalf("%s to %s: %v", name, out.Name(), err)
				}
				wantSameHeaders(t, sent, arrived)
			}
		}
	}
}

func TestServe_KeepsTheOrderOfConnections(t *testing.T) {
	ln, destination := listen(t)
	relay := serve(t, dialer(destination), Config{})
	const count = 30
	var sources []net.Conn
	for range count {
		conn, err := relay.Dial(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		sources = append(sources, conn)
	}
	// The first connections speak last.
	for i := range sources {
		send(t, sources[count-1-i], []byte{byte(count - 1 - i)})
	}
	for i := range count {
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(hang))
		want(t, conn, []byte{byte(i)})
	}
}

// A dialer that hangs delays the source no longer than DialTimeout.
func TestServe_HangingDialEnds(t *testing.T) {
	dialing := make(chan struct{}, 2)
	hanging := func(ctx context.Context) (net.Conn, error) {
		dialing <- struct{}{}
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	var log lockedBuffer
	relay := serve(t, hanging, Config{DialTimeout: 50 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for range 2 {
		conn, err := relay.Dial(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(hang))
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read %d bytes, error %v", n, err)
		}
		<-dialing
	}
	if text := log.String(); !strings.Contains(text, transport.ErrNoConnection.Error()) {
		t.Errorf("logged %q", text)
	}
	// One that hangs when the relay stops ends, too: see serve.
	relay = serve(t, hanging, Config{DialTimeout: time.Hour})
	conn, err := relay.Dial(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	<-dialing
}

func TestServe_ConnectionThatFailsIsLogged(t *testing.T) {
	ln, destination := listen(t)
	var log lockedBuffer
	relay := serve(t, dialer(destination), Config{In: multifd.Zstd, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	conn, err := relay.Dial(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(hang))
	arriving, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer arriving.Close()
	p := newPackets(t, multifd.Zlib, page4K)
	send(t, conn, onWire(p.data(3, 0)))
	for { // until the connection breaks, which is logged a moment later
		if _, err := conn.Write(make([]byte, 100)); err != nil {
			break
		}
	}
	const reason = "multifd channel 3: packet 1: flags: malformed multifd stream: the source sends zlib, but zstd is to be decoded"
	for end := time.Now().Add(hang); !strings.Contains(log.String(), reason); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("logged %q, want %q", log.String(), reason)
		}
	}
}
