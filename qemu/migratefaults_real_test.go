//go:build realqemu

package qemu_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/internal/soak"
	"github.com/vmferry/vmferry/qmp"
)

// brittleLink forwards TCP connections until it is cut.
type brittleLink struct {
	ln net.Listener
	to string

	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func newBrittleLink(t *testing.T, to string) *brittleLink {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &brittleLink{ln: ln, to: to}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() { l.forward(conn) })
		}
	})
	t.Cleanup(func() { l.end(); ln.Close(); running.Wait() })
	return l
}

func (l *brittleLink) forward(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("tcp", l.to)
	if err != nil {
		return
	}
	defer to.Close()
	l.mu.Lock()
	l.conns = append(l.conns, from, to)
	cut := l.cut
	l.mu.Unlock()
	if cut {
		return
	}
	var both sync.WaitGroup
	for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
		both.Go(func() {
			io.Copy(pair[0], pair[1])
			pair[0].(*net.TCPConn).CloseWrite()
		})
	}
	both.Wait()
}

// end cuts all connections; later ones end at once.
func (l *brittleLink) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for _, conn := range l.conns {
		conn.Close()
	}
}

// command is a vmferry that runs.
type command struct {
	*exec.Cmd
	out bytes.Buffer
}

func startCommand(t *testing.T, args ...string) *command {
	t.Helper()
	return start(t, exec.Command(program, args...))
}

func start(t *testing.T, cmd *exec.Cmd) *command {
	t.Helper()
	c := &command{Cmd: cmd}
	c.Stdout, c.Stderr = &c.out, &c.out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill() })
	return c
}

// faults is how often a part of a migration is killed or cut.
var faults = soak.Times(6, 40)

// A side is killed or the link is cut at a random moment. Afterwards exactly one machine
// runs, and the command says which.
func TestRealQEMUMigrate_ExactlyOneMachineRunsAfterAFault(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	src := source(t, "10.0")
	moves := 0
	for i := range faults {
		fault := []string{"kill migrate", "kill accept", "cut"}[i%3]
		dst := twin(t, src, "10.0")
		if moveDuringFault(t, src, dst, fault, time.Duration(rng.Int64N(int64(4*time.Second)))) {
			moves++
			src.Kill()
			src = dst
		} else {
			dst.Kill()
		}
		if err := src.Corrupt(); err != nil {
			t.Fatal(err)
		}
	}
	runsOn(t, src)
	t.Logf("%d faults; the machine moved %d times all the same", faults, moves)
}

// moveDuringFault tells whether the machine runs at the destination afterwards.
func moveDuringFault(t *testing.T, src, dst *qemutest.VM, fault string, after time.Duration) bool {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().String()
	free.Close()
	link := newBrittleLink(t, at)
	accept := startCommand(t, "accept", "--qmp", dst.QMPPath(), "--listen", "tcp:"+at, "--insecure")
	awaitListener(t, at)
	migrate := startCommand(t, "migrate", "--qmp", src.QMPPath(), "--connect", "tcp:"+link.ln.Addr().String(), "--insecure", "--bandwidth", "40MiB", "--compression", "none", "--diverging", "stop")
	time.Sleep(after)
	switch fault {
	case "kill migrate":
		migrate.Process.Kill()
	case "kill accept":
		accept.Process.Kill()
	case "cut":
		link.end()
	}
	migrate.Wait()
	what := fmt.Sprintf("%s after %v", fault, after)
	if fault == "cut" {
		accept.Wait()
		if out := accept.out.String(); !strings.Contains(out, "the machine does not run here") && !strings.Contains(out, "the machine is running here") {
			t.Errorf("%s: accept does not say whether the machine runs there\n%s", what, out)
		}
	}
	undecided := strings.Contains(migrate.out.String(), "it is not known whether")
	here := dial(t, src.QMPPath2())
	defer here.Close()
	// A QEMU whose connections end while it loads may answer no more: see
	// destination.describeState. It does not run the machine.
	there, err := qmp.Dial(t.Context(), dst.QMPPath2())
	if err != nil {
		there = nil
	} else {
		defer there.Close()
	}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		runsThere, runsHere := there != nil && state(t, there) == qmp.StateRunning, state(t, here) == qmp.StateRunning
		switch {
		case runsThere && runsHere:
			t.Fatalf("%s: the machine runs at both sides\n%s\n%s", what, &migrate.out, &accept.out)
		case fault != "kill migrate" && runsHere && !strings.Contains(migrate.out.String(), "the source runs"),
			fault == "cut" && runsThere && !undecided && !strings.Contains(migrate.out.String(), "the machine is running at"):
			t.Fatalf("%s: the command does not say where the machine runs (source %v, destination %v)\n%s", what, runsHere, runsThere, &migrate.out)
		case runsThere || runsHere:
			t.Logf("%s: source %v, destination %v", what, runsHere, runsThere)
			accept.Process.Kill()
			accept.Wait()
			waitNoGuard(t)
			return runsThere
		case time.Since(began) > time.Minute:
			t.Fatalf("%s: the machine runs nowhere: the source is %q\n%s\n%s", what, state(t, here), &migrate.out, &accept.out)
		}
	}
}

// awaitListener waits until something listens at a TCP address, without connecting.
func awaitListener(t *testing.T, at string) {
	t.Helper()
	addr, err := net.ResolveTCPAddr("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		listens, err := portListens(addr.Port)
		if err != nil {
			t.Fatal(err)
		}
		if listens {
			return
		}
		if time.Since(began) > hang {
			t.Fatalf("nothing listens at %s", at)
		}
	}
}

// portListens tells whether something listens at a TCP port of this thread's network
// namespace.
func portListens(port int) (bool, error) {
	table, err := os.ReadFile("/proc/thread-self/net/tcp")
	return strings.Contains(string(table), fmt.Sprintf(":%04X 00000000:0000 0A", port)), err
}
