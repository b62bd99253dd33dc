package qemu

import (
	"bytes"
	"io"
	"net"
	"path/filepath"
	"testing"
)

func TestLingerListener_KeepsAConnectionOpenForQEMU(t *testing.T) {
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ln := &lingerListener{UnixListener: listener.(*net.UnixListener)}
	qemu, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer qemu.Close()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		read <- err
	}()
	conn.Close()
	if err := <-read; err == nil {
		t.Error("a read of a connection that is closed here went well")
	}
	// More than the kernel keeps: it has to be read.
	if _, err := io.Copy(qemu, bytes.NewReader(make([]byte, 4<<20))); err != nil {
		t.Errorf("QEMU lost the connection: %v", err)
	}
	ln.release()
	if _, err := qemu.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is open after release")
	}
}

func TestGuard_HoldsConnectionsOfAProcessThatIsKilled(t *testing.T) {
	mine, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.FileConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	held := holdConns(other.(*net.UnixConn))
	conn, qemu, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer qemu.Close()
	g := &Guard{conns: mine}
	if err := g.hold(conn); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	mine.Close() // what a killed process does
	held.drain()
	if _, err := io.Copy(qemu, bytes.NewReader(make([]byte, 4<<20))); err != nil {
		t.Errorf("QEMU lost the connection: %v", err)
	}
	held.close()
	if _, err := qemu.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is open after the guard has closed it")
	}
}
