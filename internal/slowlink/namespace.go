package slowlink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Do calls f on a thread in the network namespace of an end and returns its error. Sockets
// that f makes belong to that namespace for ever; goroutines that f starts do not.
func (l *Link) Do(e End, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := enter("/run/netns/" + l.names[e])
		if err == nil {
			err = f()
		}
		// A thread that cannot return stays locked and ends with the goroutine. Usually a
		// thread must not end: processes that it started may have a parent-death signal.
		if home() == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// enter moves this thread into a network namespace. home moves it back; after an error it
// does nothing.
func enter(path string) (home func() error, err error) {
	stay := func() error { return nil }
	before, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return stay, fmt.Errorf("slowlink: %w", err)
	}
	namespace, err := os.Open(path)
	if err == nil {
		err = unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET)
		namespace.Close()
	}
	if err != nil {
		before.Close()
		return stay, fmt.Errorf("slowlink: entering the network namespace %s: %w", path, err)
	}
	return func() error {
		defer before.Close()
		return unix.Setns(int(before.Fd()), unix.CLONE_NEWNET)
	}, nil
}

// Listen listens at an end, on a TCP port, or on a free one if port is 0.
func (l *Link) Listen(e End, port int) (ln *net.TCPListener, err error) {
	err = l.Do(e, func() error {
		ln, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: net.ParseIP(e.IP()), Port: port})
		return err
	})
	return ln, err
}

// Dial connects from an end to a TCP address, whose host is an IP address.
func (l *Link) Dial(ctx context.Context, e End, address string) (conn *net.TCPConn, err error) {
	err = l.Do(e, func() error {
		c, err := new(net.Dialer).DialContext(ctx, "tcp4", address)
		if err == nil {
			conn = c.(*net.TCPConn)
		}
		return err
	})
	return conn, err
}

// AwaitUp waits until a connection can be made from the source to the destination. After
// SetUp the kernel takes a moment to find the way again: a dial may fail meanwhile with "no
// route to host".
func (l *Link) AwaitUp(ctx context.Context) error {
	ln, err := l.Listen(Destination, 0)
	if err != nil {
		return err
	}
	defer ln.Close()
	for {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		conn, err := l.Dial(attempt, Source, ln.Addr().String())
		cancel()
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("slowlink: the link is not up: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// StartProxy starts a proxy in front of a TCP address of the destination, and returns its
// address. stop ends the proxy and its connections.
func (l *Link) StartProxy(p Proxy, target string) (address string, stop func() error, err error) {
	return l.StartProxyAt(0, p, target)
}

// StartProxyAt is StartProxy with a port of the proxy, or a free one if port is 0.
func (l *Link) StartProxyAt(port int, p Proxy, target string) (address string, stop func() error, err error) {
	ln, err := l.Listen(Destination, port)
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- p.Serve(ctx, ln, func(ctx context.Context) (*net.TCPConn, error) {
			return l.Dial(ctx, Destination, target)
		})
	}()
	return ln.Addr().String(), func() error {
		cancel()
		return <-ended
	}, nil
}

// Sent returns the number of bytes that an end has sent over the link, headers of packets
// included. The kernel counts the headers of several packets that it handles as one once.
func (l *Link) Sent(e End) (sent uint64, err error) {
	err = l.Do(e, func() error {
		text, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return fmt.Errorf("slowlink: %w", err)
		}
		sent, err = sentBy(string(text), device)
		return err
	})
	return sent, err
}

// sentBy finds the bytes that a device has sent in the text of /proc/net/dev.
func sentBy(text, device string) (uint64, error) {
	const sentBytes = 8 // the column, after eight of what was received
	for line := range strings.Lines(text) {
		name, counters, _ := strings.Cut(strings.TrimSpace(line), ":")
		fields := strings.Fields(counters)
		if name == device && len(fields) > sentBytes {
			return strconv.ParseUint(fields[sentBytes], 10, 64)
		}
	}
	return 0, errors.New("slowlink: no counters of the device " + device)
}
