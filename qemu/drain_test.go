package qemu

import (
	"bytes"
	"io"
	"net"
	"path/filepath"
	"testing"
)

// stillReads checks that what is written to a connection of QEMU's is read, more than
// the kernel keeps, and that the direction to QEMU has ended.
func stillReads(t *testing.T, qemu net.Conn) {
	t.Helper()
	if _, err := io.Copy(qemu, bytes.NewReader(make([]byte, 4<<20))); err != nil {
		t.Errorf("QEMU lost the connection: %v", err)
	}
	if _, err := qemu.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("QEMU reads %v, want the end of its return path", err)
	}
}

func TestLingerListener_KeepsItsSocketsOpenForQEMU(t *testing.T) {
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	ln, err := lingerOn(listener.(*net.UnixListener), nil)
	if err != nil {
		t.Fatal(err)
	}
	dial := func() net.Conn {
		conn, err := net.Dial("unix", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	qemu := dial()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 2)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		waiting <- err
	}()
	go func() {
		for {
			if _, err := ln.Accept(); err != nil {
				waiting <- err
				return
			}
		}
	}()
	conn.Close()
	ln.Close()
	for range 2 {
		if err := <-waiting; err == nil {
			t.Error("what is closed here goes on here")
		}
	}
	stillReads(t, qemu)
	stillReads(t, dial())
	ln.release()
	if _, err := qemu.Write(make([]byte, 1)); err == nil {
		t.Error("the connection is open after release")
	}
	if _, err := net.Dial("unix", listener.Addr().String()); err == nil {
		t.Error("the socket listens after release")
	}
}

func TestGuard_HoldsSocketsOfAProcessThatIsKilled(t *testing.T) {
	mine, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.FileConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	held := holdSockets(other.(*net.UnixConn))
	g := &Guard{conns: mine}

	conn, file, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	qemu, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	defer qemu.Close()
	if err := g.sendSocket(conn); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	mine.Close() // what a killed process does
	if err := held.drain(); err != nil {
		t.Fatal(err)
	}
	stillReads(t, qemu)
	held.close()
	if _, err := qemu.Write(make([]byte, 1)); err == nil {
		t.Error("the connection is open after the guard has closed it")
	}
}
