//go:build netns

package godemo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vmferry/vmferry/transport"
)

// wire is a pair of network namespaces, joined by a veth pair.
type wire struct {
	names [2]string // of the source's and the destination's namespace
	links [2]io.Writer
}

const destinationIP = "10.99.7.2"

var wires atomic.Int32

func newWire(t *testing.T) *wire {
	t.Helper()
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	try(checkRequirements())
	n, w := wires.Add(1), new(wire)
	for i, letter := range []string{"A", "B"} {
		w.names[i] = fmt.Sprintf("vf%s%d-%d", letter, os.Getpid(), n)
		try(command("ip netns add %s", w.names[i]))
		t.Cleanup(func() { try(command("ip netns del %s", w.names[i])) })
	}
	try(command("ip link add wire netns %s type veth peer name wire netns %s", w.names[0], w.names[1]))
	for i, name := range w.names {
		try(command("ip -n %s addr add 10.99.7.%d/24 dev wire", name, i+1))
		try(command("ip -n %s link set lo up", name))
		w.links[i] = startIP(t, name)
	}
	w.setUp()
	return w
}

func command(format string, args ...any) error {
	line := fmt.Sprintf(format, args...)
	words := strings.Fields(line)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}

// startIP starts an ip process that reads commands from the returned writer. Starting a
// process for each command would take too long to hit a short phase of a migration.
func startIP(t *testing.T, namespace string) io.Writer {
	t.Helper()
	cmd := exec.Command("ip", "-n", namespace, "-force", "-batch", "-")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("setting the links of %s: %v: %s", namespace, err, stderr.String())
		}
	})
	return in
}

// setDown takes the link down at one end.
func (w *wire) setDown(end int) { io.WriteString(w.links[end], "link set wire down\n") }

// setUp brings the link up at both ends.
func (w *wire) setUp() {
	for _, l := range w.links {
		io.WriteString(l, "link set wire up\n")
	}
}

// limitRate limits the rate at which the source sends. rate is in the notation of tc; ""
// means no limit.
func (w *wire) limitRate(rate string) error {
	command("tc -n %s qdisc del dev wire root", w.names[0]) // there may be none
	if rate == "" {
		return nil
	}
	return command("tc -n %s qdisc add dev wire root tbf rate %s burst 256kb latency 50ms", w.names[0], rate)
}

// processes are the processes of one migration over a wire.
type processes struct {
	t     *testing.T
	wire  *wire
	delay time.Duration // each way; 0 is no proxy

	mu     sync.Mutex
	cmds   map[string]*exec.Cmd
	stderr map[string]*bytes.Buffer
	victim string
}

// side is a Side whose processes run in the wire's namespaces.
func (p *processes) side(ctx context.Context, side, address string) *exec.Cmd {
	p.t.Helper()
	namespace := p.wire.names[0]
	if side == "destination" {
		namespace, address = p.wire.names[1], "tcp:"+destinationIP+":0"
	} else if p.delay > 0 {
		address = p.proxy(ctx, address)
	}
	cmd, err := roleCommand(ctx, namespace, side, address)
	if err != nil {
		p.t.Error(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmds == nil {
		p.cmds, p.stderr = make(map[string]*exec.Cmd), make(map[string]*bytes.Buffer)
	}
	p.cmds[side], p.stderr[side] = cmd, new(bytes.Buffer)
	cmd.Stderr = p.stderr[side]
	return cmd
}

// proxy starts a proxy in front of the destination and returns its address. The proxy
// ends with ctx.
func (p *processes) proxy(ctx context.Context, target string) string {
	cmd, err := roleCommand(ctx, p.wire.names[1], "proxy", target, delayVar+"="+p.delay.String())
	if err != nil {
		p.t.Error(err)
	}
	proc, err := start(cmd, Config{})
	if err != nil {
		p.t.Errorf("starting the proxy: %v", err)
		return target
	}
	listening, err := proc.next()
	if err != nil {
		p.t.Errorf("the proxy does not listen: %v", err)
	}
	go proc.Wait()
	return listening.Address
}

// kill kills a side.
func (p *processes) kill(side string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.victim = side
	p.cmds[side].Process.Kill()
}

// killed reports whether err is the exit of a side that kill killed. Such a side may have
// reported its end right before.
func (p *processes) killed(side string, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	var exit *exec.ExitError
	return p.victim == side && errors.As(err, &exit) && !exit.Exited()
}

// logs returns the log of both sides, which must have ended.
func (p *processes) logs() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprintf("source's log:\n%s\ndestination's log:\n%s", p.stderr["source"], p.stderr["destination"])
}

// delayingProxy forwards connections to the target. It delays all data by the same time
// and does not change its rate.
func delayingProxy(target transport.Address, delay string, out io.Writer) error {
	late, err := time.ParseDuration(delay)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", destinationIP+":0")
	if err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(Event{Event: "listening", Address: "tcp:" + ln.Addr().String()}); err != nil {
		return err
	}
	for {
		source, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			destination, err := net.Dial(target.Network, target.Addr)
			if err != nil {
				source.Close()
				return
			}
			go copyDelayed(destination, source, late)
			copyDelayed(source, destination, late)
		}()
	}
}

// copyDelayed copies one direction of a connection, and its end, with a delay.
func copyDelayed(to, from net.Conn, late time.Duration) {
	type chunk struct {
		due  time.Time
		data []byte
	}
	queue := make(chan chunk, 1<<16)
	go func() {
		defer close(queue)
		for {
			data := make([]byte, 64<<10)
			n, err := from.Read(data)
			if n > 0 {
				queue <- chunk{time.Now().Add(late), data[:n]}
			}
			if err != nil {
				queue <- chunk{due: time.Now().Add(late)} // delays the end too
				return
			}
		}
	}()
	for c := range queue {
		time.Sleep(time.Until(c.due))
		if _, err := to.Write(c.data); err != nil {
			from.Close()
			to.Close()
		}
	}
	to.(*net.TCPConn).CloseWrite()
}
