package multifd

import (
	"bytes"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// watchedConn is a socket that hands out a RawConn of its own.
type watchedConn struct {
	net.Conn
	writes int
}

func (c *watchedConn) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.Conn.(syscall.Conn).SyscallConn()
	return watchedRaw{raw, c}, err
}

type watchedRaw struct {
	syscall.RawConn
	c *watchedConn
}

func (r watchedRaw) Write(f func(fd uintptr) bool) error {
	r.c.writes++
	return r.RawConn.Write(f)
}

// socketPair returns the two ends of a unix socket.
func socketPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { ends[i].Close() })
	}
	return ends[0], ends[1]
}

// More vectors than one writev takes, and more bytes than the socket holds.
func TestVectorWriter_WritesAllThroughTheRawConn(t *testing.T) {
	a, b := socketPair(t)
	watched := &watchedConn{Conn: a}
	var want []byte
	var bufs net.Buffers
	for i := range 2*maxVectors + 5 {
		buf := bytes.Repeat([]byte{byte(i), byte(i >> 8), 7}, i%700)
		want = append(want, buf...)
		bufs = append(bufs, buf)
	}
	type result struct {
		n   int64
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := newVectorWriter(watched).write(&bufs)
		a.Close()
		done <- result{n, err}
	}()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes came of %d, or others than were sent (%v)", len(got), len(want), err)
	}
	r := <-done
	if r.err != nil || r.n != int64(len(want)) {
		t.Errorf("%d of %d bytes written, error %v", r.n, len(want), r.err)
	}
	if watched.writes < 4 {
		t.Errorf("the RawConn saw %d writes", watched.writes)
	}
}

func TestVectorWriter_DoesNotAllocateInTheSteadyState(t *testing.T) {
	a, b := socketPair(t)
	go io.Copy(io.Discard, b)
	w := newVectorWriter(a)
	page := make([]byte, 4096)
	var bufs net.Buffers
	allocs := testing.AllocsPerRun(50, func() {
		bufs = bufs[:0]
		for range 129 {
			bufs = append(bufs, page)
		}
		if _, err := w.write(&bufs); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations a packet", allocs)
	}
}

func TestVectorWriter_ErrorReportsAClosedPeer(t *testing.T) {
	a, b := socketPair(t)
	b.Close()
	bufs := net.Buffers{{1}, {2}}
	if _, err := newVectorWriter(a).write(&bufs); err == nil {
		t.Error("two bytes were written to nobody")
	}
}
