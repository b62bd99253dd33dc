package harness

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
)

// The bare copy is the upper limit for a migration on this machine. It sends the same
// memory over the same number of connections, in pieces of the size of a packet. The
// destination maps its memory when the source has connected, and reads the pieces into
// place with readv. There is no protocol: connection i carries every Channels-th piece from
// piece i on. The destination answers with a byte when it has all pieces.

// pieces calls do for all pieces of memory that a connection carries.
func pieces(mem *guestmem.Memory, channel, channels int, do func([]byte) error) error {
	ram := mem.Bytes(mem.Layout().Blocks[0])
	for at := channel * guest.PacketBytes; at < len(ram); at += channels * guest.PacketBytes {
		if err := do(ram[at:min(at+guest.PacketBytes, len(ram))]); err != nil {
			return err
		}
	}
	return nil
}

func sendBare(j Job, to transport.Address, mem *guestmem.Memory) (t Result, err error) {
	t.Usage, err = j.measured(func() error {
		began := time.Now()
		defer func() { t.Total = time.Since(began) }()
		conns := make([]net.Conn, j.Channels)
		for i := range conns {
			c, err := net.Dial(to.Network, to.Addr)
			if err != nil {
				return err
			}
			defer c.Close()
			// The first byte on a connection is its number.
			if _, err := c.Write([]byte{byte(i)}); err != nil {
				return err
			}
			conns[i] = c
		}
		return each(conns, func(i int, c net.Conn) error {
			err := pieces(mem, i, j.Channels, func(p []byte) error {
				_, err := c.Write(p)
				return err
			})
			if err != nil {
				return err
			}
			_, err = io.ReadFull(c, make([]byte, 1))
			return err
		})
	})
	t.Digest = digest(mem)
	return t, err
}

func receiveBare(j Job, ln net.Listener, mem *guestmem.Memory) (t Result, err error) {
	t.Usage, err = j.measured(func() error {
		conns := make([]net.Conn, j.Channels)
		for range conns {
			c, err := ln.Accept()
			if err != nil {
				return err
			}
			defer c.Close()
			var id [1]byte
			if _, err := io.ReadFull(c, id[:]); err != nil {
				return err
			}
			if int(id[0]) >= len(conns) || conns[id[0]] != nil {
				return fmt.Errorf("connection number %d (want each of 0 to %d once)", id[0], len(conns)-1)
			}
			conns[id[0]] = c
		}
		l, err := newLayout(j.memory())
		if err != nil {
			return err
		}
		if err := mem.Setup(l); err != nil {
			return err
		}
		return each(conns, func(i int, c net.Conn) error {
			r, one := multifd.NewReader(c), make([][]byte, 1)
			err := pieces(mem, i, j.Channels, func(p []byte) error {
				one[0] = p
				return r.ReadVectors(one)
			})
			_, writeErr := c.Write([]byte{1})
			return errors.Join(err, writeErr)
		})
	})
	if err == nil {
		t.Digest = digest(mem)
	}
	return t, err
}

// each calls do for all connections concurrently.
func each(conns []net.Conn, do func(i int, c net.Conn) error) error {
	var group errgroup.Group
	for i, c := range conns {
		group.Go(func() error { return do(i, c) })
	}
	return group.Wait()
}
