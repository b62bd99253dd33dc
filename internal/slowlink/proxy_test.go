package slowlink

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// hanging bounds what ends at once.
const hanging = time.Minute

// pair returns both ends of a connection through a proxy.
func pair(t *testing.T, p Proxy) (source, destination *net.TCPConn) {
	t.Helper()
	listen := func() *net.TCPListener {
		ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	dial := func(address string) (*net.TCPConn, error) {
		c, err := net.Dial("tcp4", address)
		if err != nil {
			return nil, err
		}
		return c.(*net.TCPConn), nil
	}
	ln, target := listen(), listen()
	defer target.Close()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- p.Serve(ctx, ln, func(context.Context) (*net.TCPConn, error) { return dial(target.Addr().String()) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	source, err := dial(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := target.Accept()
	if err != nil {
		t.Fatal(err)
	}
	destination = c.(*net.TCPConn)
	for _, c := range []*net.TCPConn{source, destination} {
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(hanging))
	}
	return source, destination
}

func TestProxy_CarriesBothDirectionsAndHalfCloses(t *testing.T) {
	source, destination := pair(t, Proxy{Delay: time.Millisecond, Window: 100 << 10})
	data := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{1}).Read(data)
	sent := make(chan error, 2)
	send := func(c *net.TCPConn) {
		_, err := c.Write(data)
		sent <- errors.Join(err, c.CloseWrite())
	}
	go send(source)
	if got, err := io.ReadAll(destination); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes arrived, error %v, want %d", len(got), err, len(data))
	}
	// The other direction is open after the end of the first one.
	go send(destination)
	if got, err := io.ReadAll(source); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back, error %v, want %d", len(got), err, len(data))
	}
	for range 2 {
		if err := <-sent; err != nil {
			t.Error(err)
		}
	}
}

func TestProxy_DelaysEachDirection(t *testing.T) {
	const delay = 30 * time.Millisecond
	source, destination := pair(t, Proxy{Delay: delay, Window: 1 << 20})
	began := time.Now()
	for _, c := range [][2]*net.TCPConn{{source, destination}, {destination, source}} {
		if _, err := c[0].Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c[1], make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < 2*delay {
		t.Errorf("there and back took %v, want at least %v", took, 2*delay)
	}
	source.CloseWrite()
	began = time.Now()
	io.Copy(io.Discard, destination)
	if took := time.Since(began); took < delay/2 {
		t.Errorf("the end took %v, want about %v", took, delay)
	}
}

func TestProxy_CarriesResets(t *testing.T) {
	for name, ends := range map[string]func(a, b *net.TCPConn) (resets, sees *net.TCPConn){
		"of the source":      func(a, b *net.TCPConn) (*net.TCPConn, *net.TCPConn) { return a, b },
		"of the destination": func(a, b *net.TCPConn) (*net.TCPConn, *net.TCPConn) { return b, a },
	} {
		t.Run(name, func(t *testing.T) {
			resets, sees := ends(pair(t, Proxy{Delay: time.Millisecond, Window: 1 << 20}))
			reset(resets)
			if _, err := sees.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("error %v, want a reset", err)
			}
		})
	}
}

func TestProxy_TargetThatRefusesIsAReset(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Proxy{}.Serve(ctx, ln, func(context.Context) (*net.TCPConn, error) { return nil, syscall.ECONNREFUSED })
	}()
	c, err := net.Dial("tcp4", ln.Addr().String())
	if err == nil { // the reset did not overtake the end of Dial
		defer c.Close()
		c.SetDeadline(time.Now().Add(hanging))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("error %v, want a reset", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// endless is a source of data that counts what was read.
type endless struct {
	net.Conn
	read atomic.Int64
}

func (e *endless) Read(b []byte) (int, error) {
	e.read.Add(int64(len(b)))
	return len(b), nil
}

func TestProxy_WindowBoundsTheDataOnTheWay(t *testing.T) {
	const window = 4 * readSize
	e, q := new(endless), newQueue(window)
	ended := make(chan struct{})
	go func() {
		Proxy{Window: window}.read(e, q)
		close(ended)
	}()
	for range window / readSize {
		if _, ok := q.take(); !ok {
			t.Fatal("the queue is closed")
		}
	}
	// Taken data is on the way until it has arrived, so one more read waits.
	if n := e.read.Load(); n > window+readSize {
		t.Errorf("%d bytes were read, want at most %d", n, window+readSize)
	}
	q.arrived(readSize)
	if _, ok := q.take(); !ok {
		t.Error("the queue is closed")
	}
	q.close()
	<-ended
}

func TestProxy_EndsWithItsContext(t *testing.T) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// The cleanup of pair ends the proxy and waits for it.
		t.Run("proxy", func(t *testing.T) {
			source, _ := pair(t, Proxy{Delay: time.Hour, Window: 1 << 20})
			if _, err := source.Write([]byte("on the way")); err != nil {
				t.Error(err)
			}
		})
	}()
	select {
	case <-ended:
	case <-time.After(hanging):
		t.Fatal("the proxy waits for data that is on the way")
	}
}

func TestWindowOf_HoldsWhatIsOnTheWay(t *testing.T) {
	if got, want := WindowOf(1e9, 10*time.Millisecond), 2_500_000; got != want {
		t.Errorf("window %d, want %d", got, want)
	}
	if got := WindowOf(0, time.Second); got != readSize {
		t.Errorf("window %d, want %d", got, readSize)
	}
}

func TestSentBy_ReadsTheCounter(t *testing.T) {
	const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       1       2    0    0    0     0          0         0        3       4    0    0    0     0       0          0
  wire:  250698     601    0    0    0     0          0         0 12345678     700    0    0    0     0       0          0
`
	if got, err := sentBy(text, "wire"); got != 12345678 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
	if _, err := sentBy(text, "eth0"); err == nil {
		t.Error("a device that is not there has counters")
	}
}
