package migration

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

func TestReceive_SilentSourceIsAStall(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"unix", "tcp"} {
		rec, ln := smallRecording(t), listenOn(t, network)
		done := start(t, ln, rec, newWarnings(), func(c *ReceiveConfig) { c.StallTimeout = 200 * time.Millisecond })
		underWay(t, ln, rec)
		err := ended(t, done)
		if !errors.Is(err, transport.ErrStalled) {
			t.Fatalf("%s: error %v", network, err)
		}
		for _, part := range []string{"no byte moved on any connection for 200ms", "main channel: waiting for the source to send", "--stall-timeout", "the main channel was at byte 200"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q is not in %v", network, part, err)
			}
		}
	}
}

func TestReceive_MissingHeadIsAStall(t *testing.T) {
	t.Parallel()
	rec, ln := smallRecording(t), listenOn(t, "unix")
	done := start(t, ln, rec, newWarnings(), func(c *ReceiveConfig) { c.StallTimeout = 100 * time.Millisecond })
	rec.Conns[0] = rec.Conns[0][:30] // with the machine's name, without what follows
	for _, data := range rec.Conns {
		hold(t, ln, data[:min(len(data), 100)])
	}
	if err := ended(t, done); !errors.Is(err, transport.ErrStalled) {
		t.Errorf("error %v", err)
	}
}

// The main channel is at its end, and waits for the channel.
func TestReceive_ChannelStoppedInAPacketIsAStall(t *testing.T) {
	t.Parallel()
	rec, ln := load(t, "testdata/captures/synthetic-none-2ch"), listenOn(t, "unix")
	var progress Counters
	done := start(t, ln, rec, newWarnings(), func(c *ReceiveConfig) {
		c.StallTimeout, c.Counters = 300*time.Millisecond, &progress
	})
	main, rest := rec.Conns[0][:len(rec.Conns[0])-100], rec.Conns[0][len(rec.Conns[0])-100:]
	begun := firstPacket(t, rec.Conns[1])
	conn := hold(t, ln, nil)
	go conn.Write(main)
	var all uint64
	for i, data := range rec.Conns[1:] {
		channel := hold(t, ln, nil)
		all += uint64(len(data)) - 64
		if i == 1 {
			data = append(data, begun...)
			all += uint64(len(begun)) - 1000
		}
		go channel.Write(data)
	}
	awaitBytes(t, &progress, all)
	conn.Write(rest)
	err := ended(t, done)
	if !errors.Is(err, transport.ErrStalled) && (err == nil || !strings.Contains(err.Error(), "pages after the last sync point")) {
		t.Errorf("error %v", err)
	}
}

// firstPacket is a channel's first packet with pages, with 1000 bytes of its
// payload.
func firstPacket(t *testing.T, channel []byte) []byte {
	t.Helper()
	const handshakeLen, headerLen = 64, 1344
	for at := handshakeLen; at+headerLen <= len(channel); at += headerLen {
		if header := channel[at : at+headerLen]; header[19] != 0 {
			return append(append([]byte(nil), header...), make([]byte, 1000)...)
		}
	}
	t.Fatal("no packet has pages")
	return nil
}

func TestReceive_WorkOfThisSideIsNoStall(t *testing.T) {
	t.Parallel()
	rec, ln := smallRecording(t), listenOn(t, "unix")
	done := start(t, ln, rec, newWarnings(), func(c *ReceiveConfig) {
		c.StallTimeout = time.Second
		c.Commit = func(*Received) error {
			time.Sleep(2500 * time.Millisecond) // a slow disk
			return nil
		}
	})
	Replay(t, ln, rec.Conns[:1])
	for _, data := range rec.Conns[1:] { // which stay open
		conn := hold(t, ln, nil)
		go conn.Write(data)
	}
	if err := ended(t, done); err != nil {
		t.Error(err)
	}
}

// Without a bound for the source's coming, one that comes in part does not keep
// the place of the next.
func TestReceive_IncompleteSourceIsDropped(t *testing.T) {
	t.Parallel()
	rec, log, ln := smallRecording(t), newWarnings(), listenOn(t, "unix")
	done := start(t, ln, rec, log, func(c *ReceiveConfig) { c.ConnectTimeout, c.StallTimeout = 0, time.Second })
	hold(t, ln, rec.Conns[0][:200])
	hold(t, ln, rec.Conns[1][:64])
	log.await(t, "2 of 3 connections arrived, and no other for 1s", 1)
	Replay(t, ln, rec.Conns)
	if err := ended(t, done); err != nil {
		t.Error(err)
	}
}

// peer is a destination that handles each connection with a function.
func peer(t *testing.T, network string, serve func(net.Conn)) transport.Dialer {
	t.Helper()
	ln := listenOn(t, network)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			go serve(conn)
		}
	}()
	addr := transport.Address{Network: network, Addr: ln.Addr().String()}
	return func(ctx context.Context) (net.Conn, error) { return addr.Dial(ctx, nil) }
}

// sendAll sends memory of 16 MiB that is not zero.
func sendAll(t *testing.T, dial transport.Dialer, cfg SendConfig) error {
	t.Helper()
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "ram", Length: 16 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	mem, err := guestmem.New(layout)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	for i := range mem.Bytes(layout.Blocks[0]) {
		mem.Bytes(layout.Blocks[0])[i] = byte(i>>12) | 1
	}
	cfg.Channels, cfg.Method, cfg.Layout, cfg.Zero = 2, multifd.None, layout, ZeroInPackets
	cfg.Head = (&vmstate.Configuration{Machine: "small", PageBits: 12}).Head()
	s, err := Connect(t.Context(), dial, cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Round(t.Context(), mem.All()); err != nil {
		return err
	}
	devices, err := vmstate.OwnerState([]byte("state"), 4096)
	if err != nil {
		t.Fatal(err)
	}
	return s.Finish(t.Context(), devices)
}

func TestSender_DestinationThatStopsReadingIsAStall(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"unix", "tcp"} {
		dial := peer(t, network, func(net.Conn) {})
		err := sendAll(t, dial, SendConfig{Wire: Wire{StallTimeout: 300 * time.Millisecond}})
		if !errors.Is(err, transport.ErrStalled) || !strings.Contains(err.Error(), "waiting for the destination to read") {
			t.Errorf("%s: error %v", network, err)
		}
	}
}

func TestSender_DestinationThatNeverRepliesIsAStall(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"unix", "tcp"} {
		dial := peer(t, network, func(conn net.Conn) { io.Copy(io.Discard, conn) })
		err := sendAll(t, dial, SendConfig{Wire: Wire{StallTimeout: 300 * time.Millisecond}, ReturnPath: true})
		if !errors.Is(err, transport.ErrStalled) || !strings.Contains(err.Error(), "waiting for the destination's reply") {
			t.Errorf("%s: error %v", network, err)
		}
	}
}

func TestSender_NegativeStallTimeoutWaits(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	time.AfterFunc(500*time.Millisecond, func() { close(release) })
	dial := peer(t, "unix", func(conn net.Conn) { <-release; io.Copy(io.Discard, conn) })
	if err := sendAll(t, dial, SendConfig{Wire: Wire{StallTimeout: -1, LinkTimeout: 10 * time.Second}}); err != nil {
		t.Error(err)
	}
}

// The window of the destination is closed for several times the link's timeout,
// and its kernel answers whether it is.
func TestSender_SlowDestinationThatAcknowledgesIsAlive(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	time.AfterFunc(3*time.Second, func() { close(release) })
	dial := peer(t, "tcp", func(conn net.Conn) { <-release; io.Copy(io.Discard, conn) })
	if err := sendAll(t, dial, SendConfig{Wire: Wire{LinkTimeout: 500 * time.Millisecond}}); err != nil {
		t.Error(err)
	}
}

func TestConnect_RetriesUntilTheDestinationListens(t *testing.T) {
	ln := listenOn(t, "unix")
	addr := transport.Address{Network: "unix", Addr: ln.Addr().String()}
	ln.Close() // and removes the socket
	dials := 0
	dial := func(ctx context.Context) (net.Conn, error) {
		if dials++; dials == 3 {
			ln, err := addr.Listen(t.Context())
			if err != nil {
				return nil, err
			}
			t.Cleanup(func() { ln.Close() })
			go func() {
				for {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					go io.Copy(io.Discard, conn)
				}
			}()
		}
		return addr.Dial(ctx, nil)
	}
	if err := sendAll(t, dial, SendConfig{ConnectTimeout: time.Minute}); err != nil || dials != 2+3 {
		t.Errorf("%d dials, error %v", dials, err)
	}
}

func TestConnect_ErrorNamesTheConnectTimeout(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"unix", "tcp"} {
		ln := listenOn(t, network)
		addr := transport.Address{Network: network, Addr: ln.Addr().String()}
		ln.Close()
		dials := 0
		dial := func(ctx context.Context) (net.Conn, error) { dials++; return addr.Dial(ctx, nil) }
		// Long enough for a second dial on a machine that is busy with other tests.
		err := sendAll(t, dial, SendConfig{ConnectTimeout: 3 * time.Second})
		if err == nil || !strings.Contains(err.Error(), "no process listened there for 3s") || dials < 2 {
			t.Errorf("%s: %d dials, error %v", network, dials, err)
		}
		dials = 0
		if err := sendAll(t, dial, SendConfig{}); err == nil || dials != 1 {
			t.Errorf("%s: %d dials, error %v", network, dials, err)
		}
	}
}
