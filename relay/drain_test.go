package relay_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/relay"
)

// TestRelay_DrainEndsWithTheMigrationsUnderWay adds a connection to a migration under way
// while both relays drain.
func TestRelay_DrainEndsWithTheMigrationsUnderWay(t *testing.T) {
	p := newPair(t, relay.Config{})
	a, b := p.connect()
	p.source.Drain()
	p.destination.Drain()

	// Another QEMU than the one that made the connection.
	front, qemu := net.Pipe()
	link, wire := net.Pipe()
	if err := p.source.Source(t.Context(), qemu, link); !errors.Is(err, relay.ErrDraining) {
		t.Errorf("a further migration: error %v, want %v", err, relay.ErrDraining)
	}
	for _, c := range []net.Conn{front, wire} {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the refused connection is open")
		}
	}
	added, atDestination := p.connect()
	for _, c := range [][2]*net.UnixConn{{a, b}, {added, atDestination}} {
		atB, atA := exchange(t, c[0], c[1], []byte("to the destination"), []byte("to the source"))
		if string(atB) != "to the destination" || string(atA) != "to the source" {
			t.Errorf("%q and %q arrived", atB, atA)
		}
	}
	select {
	case <-p.served:
	case <-time.After(5 * time.Minute):
		t.Fatal("the relays accept although no migration is left")
	}
}

func TestRelay_DrainOfAnIdleRelayEndsAtOnce(t *testing.T) {
	p := newPair(t, relay.Config{})
	p.source.Drain()
	p.source.Drain()
	p.destination.Drain()
	select {
	case <-p.served:
	case <-time.After(5 * time.Minute):
		t.Fatal("the relays accept although there was no migration")
	}
}

func TestStats_BothSidesKnowTheMigration(t *testing.T) {
	p := newPair(t, relay.Config{})
	a, b := p.connect()
	handshake := multifd.Handshake{UUID: [16]byte{0xab, 15: 0xcd}, ID: 1}.Append(nil)
	if _, err := a.Write(handshake); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(b, make([]byte, len(handshake))); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*relay.Relay{p.source, p.destination} {
		var err error
		if !eventually(func() bool {
			s := r.Stats()
			if len(s.Migrations) == 1 && s.Migrations[0].UUID == "ab0000000000000000000000000000cd" && s.Migrations[0].Open == 1 {
				return true
			}
			err = fmt.Errorf("migrations %+v", s.Migrations)
			return false
		}) {
			t.Error(err)
		}
	}
	a.Close()
	b.Close()
	for _, r := range []*relay.Relay{p.source, p.destination} {
		if !eventually(func() bool { return len(r.Stats().Migrations) == 0 }) {
			t.Errorf("after the end: migrations %+v", r.Stats().Migrations)
		}
	}
}
