package relay_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/corpus"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/relay"
)

// many is a number of migrations at once through one pair of relays. Each has a main
// channel and multifd channels over TCP, so that only its UUID tells it from the others.
type many struct {
	*tcpPair
	migrations, channels int
	size                 int64     // bytes of pages of a migration
	until                time.Time // when the sources end, if they have not; zero is never
	pages                []byte
	arrived              []atomic.Int64 // bytes by migration
	digests              []map[uint8][2][]byte
	mu                   sync.Mutex
}

// tcpPair is a pair of relays that QEMUs reach over TCP.
type tcpPair struct {
	source, destination *relay.Relay
	front, back         net.Listener
}

func newTCPPair(t testing.TB, cfg relay.Config) *tcpPair {
	t.Helper()
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	p := &tcpPair{front: listen(), back: listen()}
	link := listen()
	var err error
	if p.source, err = relay.New(cfg); err != nil {
		t.Fatal(err)
	}
	if p.destination, err = relay.New(cfg); err != nil {
		t.Fatal(err)
	}
	dial := func(to net.Listener) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", to.Addr().String())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := p.source.ServeSource(ctx, p.front, dial(link)); err != nil {
			t.Error(err)
		}
	})
	serving.Go(func() {
		if err := p.destination.ServeDestination(ctx, link, nil, dial(p.back)); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		serving.Wait()
		p.source.Close()
		p.destination.Close()
		p.back.Close()
	})
	return p
}

func newMany(t testing.TB, cfg relay.Config, migrations int, size int64) *many {
	return &many{
		tcpPair: newTCPPair(t, cfg), migrations: migrations, channels: 2, size: size, pages: corpus.Generate(1, 1024),
		arrived: make([]atomic.Int64, migrations), digests: make([]map[uint8][2][]byte, migrations),
	}
}

// mainChannel is the id that stands for the main channel.
const mainChannel = 255

// run moves all migrations, and returns when they have ended.
func (m *many) run(t testing.TB) {
	t.Helper()
	connections := m.migrations * (1 + m.channels)
	begin := make(chan struct{})
	var ends sync.WaitGroup
	for i := range m.migrations {
		m.digests[i] = map[uint8][2][]byte{}
		for c := range 1 + m.channels {
			conn, err := net.Dial("tcp", m.front.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			ends.Go(func() {
				defer conn.Close()
				id := uint8(c)
				if c == m.channels {
					id = mainChannel
				}
				if err := m.send(conn, i, id, begin); err != nil {
					t.Errorf("migration %d, channel %d, at the source: %v", i, id, err)
				}
			})
		}
	}
	for n := range connections {
		m.back.(*net.TCPListener).SetDeadline(time.Now().Add(5 * time.Minute))
		conn, err := m.back.Accept()
		if err != nil {
			t.Fatalf("connection %d of %d: %v", n, connections, err)
		}
		ends.Go(func() {
			defer conn.Close()
			if err := m.receive(conn); err != nil {
				t.Errorf("at the destination: %v", err)
			}
		})
	}
	close(begin)
	ends.Wait()
}

// note keeps the digest of a side of a connection.
func (m *many) note(migration int, id uint8, side int, h hash.Hash) {
	m.mu.Lock()
	defer m.mu.Unlock()
	both := m.digests[migration][id]
	both[side] = h.Sum(nil)
	m.digests[migration][id] = both
}

// check compares the digests of both sides.
func (m *many) check(t testing.TB) {
	t.Helper()
	for i, channels := range m.digests {
		if len(channels) != 1+m.channels {
			t.Errorf("migration %d: %d connections (want %d)", i, len(channels), 1+m.channels)
		}
		for id, both := range channels {
			if string(both[0]) != string(both[1]) {
				t.Errorf("migration %d, channel %d: the bytes that arrived are others", i, id)
			}
		}
	}
}

// send is the source's QEMU of one connection. It waits for the answer of the
// destination on the main channel.
func (m *many) send(conn net.Conn, migration int, id uint8, begin <-chan struct{}) error {
	digest := sha256.New()
	to := io.MultiWriter(conn, digest)
	uuid := [16]byte{0: 1}
	binary.BigEndian.PutUint32(uuid[12:], uint32(migration))
	if id == mainChannel {
		if _, err := to.Write(append([]byte("QEVMmain"), uuid[:]...)); err != nil {
			return err
		}
		<-begin
		for range 100 { // device state
			if _, err := to.Write(m.pages[:1000]); err != nil {
				return err
			}
		}
	} else {
		if _, err := to.Write(multifd.Handshake{UUID: uuid, ID: id}.Append(nil)); err != nil {
			return err
		}
		<-begin
		if err := m.sendPackets(to, migration, id); err != nil {
			return err
		}
	}
	m.note(migration, id, 0, digest)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(conn)
	if id == mainChannel && string(got) != "done" && err == nil {
		err = fmt.Errorf("the answer is %q", got)
	}
	return err
}

const packetPages = 128

// sendPackets sends a channel's part of the migration's pages. Each has content of its
// own.
func (m *many) sendPackets(to io.Writer, migration int, id uint8) error {
	rnd := rand.New(rand.NewPCG(uint64(migration), uint64(id)))
	packet := make([]byte, multifd.HeaderLen(4096)+packetPages*4096)
	head := packet[:multifd.HeaderLen(4096)]
	copy(head, []byte{0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, packetPages, 0, 0, 0, packetPages, 0, 8, 0, 0})
	copy(head[64:], "pc.ram")
	for n := range m.size / int64(m.channels) / (packetPages * 4096) {
		if !m.until.IsZero() && time.Now().After(m.until) {
			return nil
		}
		binary.BigEndian.PutUint32(head[28:], uint32(n))
		at := rnd.IntN(len(m.pages) - packetPages*4096)
		copy(packet[len(head):], m.pages[at/4096*4096:])
		for i := range packetPages {
			binary.BigEndian.PutUint64(head[320+8*i:], uint64(((int(n)*m.channels+int(id))*packetPages+i)*4096))
			binary.BigEndian.PutUint64(packet[len(head)+i*4096+rnd.IntN(4000):], rnd.Uint64())
		}
		if _, err := to.Write(packet); err != nil {
			return err
		}
	}
	return nil
}

// receive is the destination's QEMU of one connection.
func (m *many) receive(conn net.Conn) error {
	digest := sha256.New()
	var head [24]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return err
	}
	digest.Write(head[:])
	migration, id := int(binary.BigEndian.Uint32(head[20:])), uint8(mainChannel)
	if string(head[:8]) != "QEVMmain" {
		var rest [multifd.HandshakeLen - 24]byte
		if _, err := io.ReadFull(conn, rest[:]); err != nil {
			return err
		}
		digest.Write(rest[:])
		id = rest[0]
	}
	if migration >= m.migrations {
		return fmt.Errorf("migration %d", migration)
	}
	buffer := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buffer)
		digest.Write(buffer[:n])
		m.arrived[migration].Add(int64(n))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("migration %d, channel %d: %w", migration, id, err)
		}
	}
	m.note(migration, id, 1, digest)
	if id == mainChannel {
		_, err := io.WriteString(conn, "done")
		return err
	}
	return nil
}
