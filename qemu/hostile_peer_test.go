package qemu_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/migration/stored"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store/storetest"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// hostilePeer is the other end of a migration.
type hostilePeer struct {
	addr     transport.Address
	kind     byte
	channels int
	method   multifd.Method
	silent   func(context.Context)
}

// send migrates out, whole or not.
func (p *hostilePeer) send(ctx context.Context, saved *snapshot.Reader) error {
	left := new(atomic.Int64)
	left.Store(1 << 40)
	switch p.kind % 8 {
	case 1: // nothing comes
		return os.ErrInvalid
	case 2: // the stream ends somewhere
		left.Store(int64(p.kind) * 37)
	case 3: // it says nothing
		conn, err := p.addr.Dial(ctx, nil)
		if err != nil {
			return err
		}
		defer conn.Close()
		p.silent(ctx)
		return os.ErrInvalid
	case 4: // it speaks something else
		conn, err := p.addr.Dial(ctx, nil)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		return err
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		conn, err := p.addr.Dial(ctx, nil)
		return &shortConn{Conn: conn, left: left}, err
	}
	return stored.Send(ctx, dial, saved, stored.SendConfig{Wire: migration.Wire{Channels: p.channels, Method: p.method}, NoReturnPath: p.kind%8 != 5})
}

// receive takes a migration in, or not.
func (p *hostilePeer) receive(ctx context.Context, ln net.Listener) error {
	defer ln.Close()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	switch p.kind % 8 {
	case 1: // the listener is closed
		return os.ErrInvalid
	case 2: // it hangs up
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		return conn.Close()
	case 3: // it reads nothing
		p.silent(ctx)
		return os.ErrInvalid
	case 4: // it answers something else
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte{0, 1, 0, p.kind, 0xff, 0xff, 0, 0, 0, 0})
		return err
	}
	mem := new(guestmem.Memory)
	_, err := migration.Receive(ctx, ln, migration.ReceiveConfig{Wire: migration.Wire{Channels: p.channels, Method: p.method}, Sink: mem, ConnectTimeout: 10 * time.Second})
	mem.Close()
	return err
}

// shortConn fails when so many bytes were written to it and its like.
type shortConn struct {
	net.Conn
	left *atomic.Int64
}

func (c *shortConn) Write(b []byte) (int, error) {
	if c.left.Add(-int64(len(b))) < 0 {
		c.Conn.Close()
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

// savedMachine is a snapshot of a small machine.
func savedMachine(tb testing.TB) *snapshot.Reader {
	tb.Helper()
	must := func(err error) {
		if err != nil {
			tb.Helper()
			tb.Fatal(err)
		}
	}
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "pc.ram", Length: 64 << 10}})
	must(err)
	mem, err := guestmem.New(layout)
	must(err)
	defer mem.Close()
	copy(mem.Bytes(layout.Blocks[0]), "the memory of a machine")
	devices, err := vmstate.OwnerState([]byte("its devices"), 4096)
	must(err)
	bucket := storetest.NewBucket()
	w, err := snapshot.Create(tb.Context(), bucket, snapshot.Options{Store: snapshot.StoreRaw})
	must(err)
	ln, err := transport.Address{Network: "unix", Addr: filepath.Join(tb.TempDir(), "s")}.Listen(context.Background())
	must(err)
	sent := make(chan error, 1)
	go func() {
		sent <- func() error {
			dial := func(ctx context.Context) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", ln.Addr().String())
			}
			s, err := migration.Connect(context.Background(), dial, migration.SendConfig{
				Wire: migration.Wire{Channels: 1, Method: multifd.None}, Head: (&vmstate.Configuration{Machine: "pc-q35-7.2"}).Head(), Layout: layout,
			})
			if err != nil {
				return err
			}
			defer s.Close()
			if err := s.Round(context.Background(), mem.All()); err != nil {
				return err
			}
			return s.Finish(context.Background(), devices)
		}()
	}()
	received, err := migration.Receive(context.Background(), ln, migration.ReceiveConfig{
		Wire: migration.Wire{Channels: 1, Method: multifd.None}, Sink: w, ConnectTimeout: time.Minute,
	})
	must(errors.Join(err, <-sent))
	_, err = w.Finish(context.Background(), stored.Meta(received))
	must(err)
	r, err := snapshot.Open(tb.Context(), bucket, snapshot.OpenOptions{})
	must(err)
	tb.Cleanup(func() { r.Close() })
	return r
}
