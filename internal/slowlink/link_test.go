//go:build netns

package slowlink

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// abandonVar makes this test's binary make a link, print its namespaces and wait.
const abandonVar = "VMFERRY_SLOWLINK_ABANDON"

func TestMain(m *testing.M) {
	if os.Getenv(abandonVar) == "" {
		os.Exit(m.Run())
	}
	l, err := New()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(l.Namespace(Source), l.Namespace(Destination))
	io.Copy(io.Discard, os.Stdin)
}

// connect connects the ends of a link, the second time through a proxy if p is not nil.
func connect(t *testing.T, l *Link, p *Proxy) (source, destination net.Conn) {
	t.Helper()
	ln, err := l.Listen(Destination, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	address := ln.Addr().String()
	if p != nil {
		var stop func() error
		if address, stop, err = l.StartProxy(*p, address); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
	if source, err = l.Dial(t.Context(), Source, address); err != nil {
		t.Fatal(err)
	}
	if destination, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{source, destination} {
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(hanging))
	}
	return source, destination
}

// transfer sends n bytes and returns the time until they have arrived.
func transfer(t *testing.T, from, to net.Conn, n int) time.Duration {
	t.Helper()
	began := time.Now()
	go from.Write(make([]byte, n))
	if _, err := io.CopyN(io.Discard, to, int64(n)); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

func TestLink_LimitsItsRateInBothDirections(t *testing.T) {
	const size, burst = 4 << 20, 256 << 10
	l := Start(t)
	source, destination := connect(t, l, nil)
	if err := l.LimitRate("100mbit"); err != nil {
		t.Fatal(err)
	}
	least := time.Duration(float64(size-burst) / (100e6 / 8) * 0.9 * float64(time.Second))
	if took := transfer(t, source, destination, size); took < least {
		t.Errorf("%d bytes took %v at 100 Mb/s, want at least %v", size, took, least)
	}
	if took := transfer(t, destination, source, size); took < least {
		t.Errorf("%d bytes back took %v at 100 Mb/s, want at least %v", size, took, least)
	}
	// A higher limit takes the place of the first one. It takes less time on every machine
	// that carries more than 100 Mb/s.
	if err := l.LimitRate("800mbit"); err != nil {
		t.Fatal(err)
	}
	if took := transfer(t, source, destination, size); took >= least {
		t.Errorf("%d bytes took %v at 800 Mb/s, want less than %v", size, took, least)
	}
	if err := l.LimitRate(""); err != nil {
		t.Fatal(err)
	}
	transfer(t, source, destination, size)
	if err := l.LimitRate("fast"); err == nil {
		t.Error("a rate that tc does not understand is no error")
	}
}

func TestLink_CountsWhatItSends(t *testing.T) {
	const size = 1 << 20
	l := Start(t)
	source, destination := connect(t, l, nil)
	before, err := l.Sent(Source)
	if err != nil {
		t.Fatal(err)
	}
	transfer(t, source, destination, size)
	after, err := l.Sent(Source)
	if err != nil {
		t.Fatal(err)
	}
	if sent := after - before; sent < size || sent > size*11/10 {
		t.Errorf("%d bytes counted, want %d and some headers", sent, size)
	}
	if back, err := l.Sent(Destination); err != nil || back >= size {
		t.Errorf("%d bytes back, error %v, want acknowledgements only", back, err)
	}
}

func TestLink_GoesOnAfterItWasDown(t *testing.T) {
	l := Start(t)
	source, destination := connect(t, l, nil)
	transfer(t, source, destination, 1000)
	l.SetDown(Destination)
	awaitState(t, l, "DOWN")
	if _, err := source.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	destination.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := destination.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes arrived over a link that is down", n)
	}
	destination.SetReadDeadline(time.Now().Add(hanging))
	l.SetUp()
	if _, err := io.ReadFull(destination, make([]byte, 1000)); err != nil {
		t.Errorf("after the link came back: %v", err)
	}
}

// awaitState waits until the destination's device has the state.
func awaitState(t *testing.T, l *Link, state string) {
	t.Helper()
	for began := time.Now(); time.Since(began) < hanging; time.Sleep(5 * time.Millisecond) {
		out, err := exec.Command("ip", "-n", l.Namespace(Destination), "link", "show", device).Output()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(out), "state "+state) {
			return
		}
	}
	t.Fatalf("the device is not %s", state)
}

func TestLink_ProxyDelaysARoundTrip(t *testing.T) {
	const delay = 10 * time.Millisecond
	l := Start(t)
	source, destination := connect(t, l, &Proxy{Delay: delay, Window: WindowOf(1e9, delay)})
	began := time.Now()
	transfer(t, source, destination, 10)
	transfer(t, destination, source, 10)
	if took := time.Since(began); took < 2*delay {
		t.Errorf("a round trip took %v, want at least %v", took, 2*delay)
	}
}

func TestLink_CommandRunsInItsNamespace(t *testing.T) {
	l := Start(t)
	for _, e := range []End{Source, Destination} {
		out, err := l.Command(t.Context(), e, "ip", "-o", "-4", "addr", "show", "dev", device).CombinedOutput()
		if err != nil || !strings.Contains(string(out), e.IP()+"/24") {
			t.Errorf("%s, %v; want the address %s", out, err, e.IP())
		}
	}
	if out, err := exec.Command("ip", "link", "show", device).Output(); err == nil {
		t.Errorf("the link is in the namespace of this process: %s", out)
	}
}

// namespaceExists reports whether a network namespace has the name.
func namespaceExists(t *testing.T, name string) bool {
	t.Helper()
	_, err := os.Stat("/run/netns/" + name)
	return err == nil
}

func TestLink_CloseRemovesItsNamespaces(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if !namespaceExists(t, l.Namespace(Source)) || !namespaceExists(t, l.Namespace(Destination)) {
		t.Error("the namespaces do not exist before Close")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if namespaceExists(t, l.Namespace(Source)) || namespaceExists(t, l.Namespace(Destination)) {
		t.Error("a namespace exists after Close")
	}
}

func TestLink_NamespacesOfAKilledProcessAreRemoved(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), hanging)
	defer cancel()
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), abandonVar+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	names := strings.Fields(line)
	if err != nil || len(names) != 2 || !namespaceExists(t, names[0]) {
		t.Fatalf("%q, %v; want two namespaces", line, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for _, name := range names {
		for namespaceExists(t, name) {
			if ctx.Err() != nil {
				t.Fatalf("the namespace %s is left", name)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}
