//go:build libvirt

package libvirttest

import (
	"bytes"
	"encoding/binary"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/vmferry/vmferry/internal/qemutest"
)

// The first bytes of QEMU's connections.
var (
	mainMagic    = []byte("QEVM")
	channelMagic = binary.BigEndian.AppendUint32(nil, 0x11223344)
)

// docs/platforms.md says what these tests show.

func TestLibvirtConnections_Parallel(t *testing.T) {
	t.Parallel()
	atSource, atDestination := tapMigration(t, quiet, func(d *domain, via *relays) {
		d.migrate(hostA, hostB, via, append([]string{"--p2p"}, parallel...)...)
	})
	for side, conns := range map[string][]*tapped{"source": atSource, "destination": atDestination} {
		if len(conns) != 3 {
			t.Fatalf("%d connections at the %s, want main and two channels", len(conns), side)
		}
		for i, c := range conns {
			if want := magicOf(i); !bytes.HasPrefix(c.forward.first, want) {
				t.Errorf("%s: connection %d begins with %q, want %q", side, i, c.forward.first, want)
			}
			if answered := c.backward.total > 0; answered != (i == 0) {
				t.Errorf("%s: connection %d has %d bytes from the destination", side, i, c.backward.total)
			}
		}
	}
}

func TestLibvirtConnections_OneChannel(t *testing.T) {
	t.Parallel()
	atSource, atDestination := tapMigration(t, quiet, func(d *domain, via *relays) {
		d.migrate(hostA, hostB, via, "--p2p")
	})
	if len(atSource) != 1 || len(atDestination) != 1 {
		t.Errorf("%d connections at the source and %d at the destination, want 1", len(atSource), len(atDestination))
	}
}

// The preempt channel is accepted second, and is silent until the guest runs at the
// destination.
func TestLibvirtConnections_Postcopy(t *testing.T) {
	t.Parallel()
	atSource, atDestination := tapMigration(t, busy, func(d *domain, via *relays) {
		must(t, <-d.beginPostcopy(hostA, hostB, via, "--postcopy-bandwidth", "16"))
	})
	for side, conns := range map[string][]*tapped{"source": atSource, "destination": atDestination} {
		if len(conns) != 2 {
			t.Fatalf("%d connections at the %s, want main and preempt", len(conns), side)
		}
		if !bytes.HasPrefix(conns[0].forward.first, mainMagic) || bytes.HasPrefix(conns[1].forward.first, mainMagic) {
			t.Errorf("%s: the connections begin with %q and %q", side, conns[0].forward.first, conns[1].forward.first)
		}
		if conns[1].forward.total == 0 || conns[1].mainBefore < beforePostcopy {
			t.Errorf("%s: %d bytes over the preempt channel, the first after %d bytes over main", side, conns[1].forward.total, conns[1].mainBefore)
		}
	}
}

func magicOf(i int) []byte {
	if i == 0 {
		return mainMagic
	}
	return channelMagic
}

// tapMigration runs a migration with a tap between each relay and its QEMU. It returns the
// connections on both sides, in the order in which they were made.
func tapMigration(t *testing.T, load qemutest.Config, migrate func(*domain, *relays)) (atSource, atDestination []*tapped) {
	t.Helper()
	const behind = ".r" // the relays use other sockets than the QEMUs
	via := startRelaysAt(t, hostA, hostB, tlsArgs, behind)
	name := filepath.Base(via.socket)
	source := startTap(t, filepath.Join(hostA.own(), name), filepath.Join(hostA.own(), name+behind))
	destination := startTap(t, filepath.Join(hostB.own(), name+behind), filepath.Join(hostB.own(), name))
	migrate(startDomain(t, hostA, false, load), via)
	return source.wait(), destination.wait()
}

// tap copies the connections to a unix socket to another one, and observes them.
type tap struct {
	mu       sync.Mutex
	conns    []*tapped
	copying  sync.WaitGroup
	listener net.Listener
}

// tapped is what a tap has observed of a connection.
type tapped struct {
	forward, backward direction // from the source, and to it
	mainBefore        int64     // bytes of the first connection before the first byte forward
}

type direction struct {
	first []byte // at most four bytes
	total int64
}

func startTap(t *testing.T, accepts, dials string) *tap {
	t.Helper()
	ln, err := net.Listen("unix", accepts)
	must(t, err)
	p := &tap{listener: ln}
	p.copying.Go(func() {
		for {
			from, err := ln.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("unix", dials)
			if err != nil {
				from.Close()
				continue
			}
			p.carry(from.(*net.UnixConn), to.(*net.UnixConn))
		}
	})
	t.Cleanup(func() { ln.Close() })
	return p
}

// wait waits for the end of all connections.
func (p *tap) wait() []*tapped {
	p.listener.Close()
	p.copying.Wait()
	return p.conns
}

func (p *tap) carry(from, to *net.UnixConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := new(tapped)
	p.conns = append(p.conns, c)
	var both sync.WaitGroup
	both.Go(func() { p.copy(to, from, c, &c.forward) })
	both.Go(func() { p.copy(from, to, c, &c.backward) })
	p.copying.Go(func() {
		both.Wait()
		from.Close()
		to.Close()
	})
}

// copy copies one direction and keeps its end.
func (p *tap) copy(to, from *net.UnixConn, c *tapped, d *direction) {
	buf := make([]byte, 256<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		if n > 0 && d == &c.forward && d.total == 0 {
			c.mainBefore = p.conns[0].forward.total
		}
		d.first = append(d.first, buf[:min(n, 4-len(d.first))]...)
		d.total += int64(n)
		p.mu.Unlock()
		if _, writeErr := to.Write(buf[:n]); err != nil || writeErr != nil {
			to.CloseWrite()
			return
		}
	}
}
