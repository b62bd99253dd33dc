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

// wire is two network namespaces with a veth pair between them. Its addresses
// exist only in there.
type wire struct {
	names [2]string // of the source's and the destination's namespace
	links [2]io.Writer
}

const thereIP = "10.99.7.2"

var wires atomic.Int32

func newWire(t *testing.T) *wire {
	t.Helper()
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	try(needed())
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
	w.up()
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

// startIP starts an ip that reads commands: by the time that a new process is
// up, the moment that is to be hit is over.
func startIP(t *testing.T, namespace string) io.Writer {
	t.Helper()
	cmd := exec.Command("ip", "-n", namespace, "-force", "-batch", "-")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("setting the links of %s: %v: %s", namespace, err, said.String())
		}
	})
	return in
}

// down breaks the link at one end.
func (w *wire) down(end int) { io.WriteString(w.links[end], "link set wire down\n") }

// up has it work again.
func (w *wire) up() {
	for _, l := range w.links {
		io.WriteString(l, "link set wire up\n")
	}
}

// shape bounds what the source sends, in the words of tc; "" is no bound.
func (w *wire) shape(rate string) error {
	command("tc -n %s qdisc del dev wire root", w.names[0]) // there may be none
	if rate == "" {
		return nil
	}
	return command("tc -n %s qdisc add dev wire root tbf rate %s burst 256kb latency 50ms", w.names[0], rate)
}

// parts are the processes of one migration over a wire.
type parts struct {
	t     *testing.T
	wire  *wire
	delay time.Duration // each way; 0 is no proxy

	mu     sync.Mutex
	cmds   map[string]*exec.Cmd
	stderr map[string]*bytes.Buffer
	victim string
}

// side makes a Side that plays in the wire's namespaces.
func (p *parts) side(ctx context.Context, side, address string) *exec.Cmd {
	p.t.Helper()
	namespace := p.wire.names[0]
	if side == "destination" {
		namespace, address = p.wire.names[1], "tcp:"+thereIP+":0"
	} else if p.delay > 0 {
		address = p.proxy(ctx, address)
	}
	cmd, err := as(ctx, namespace, side, address)
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

// proxy starts a proxy before the destination and returns its address. It ends
// with ctx.
func (p *parts) proxy(ctx context.Context, target string) string {
	cmd, err := as(ctx, p.wire.names[1], "proxy", target, delayVar+"="+p.delay.String())
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

// kill ends a side at once.
func (p *parts) kill(side string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.victim = side
	p.cmds[side].Process.Kill()
}

// killed says whether a side exited so because it was killed: it can have said
// that it ended all the same, right before.
func (p *parts) killed(side string, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	var exit *exec.ExitError
	return p.victim == side && errors.As(err, &exit) && !exit.Exited()
}

// said is what the sides logged. They have to have ended.
func (p *parts) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprintf("source's log:\n%s\ndestination's log:\n%s", p.stderr["source"], p.stderr["destination"])
}

// delayingProxy passes connections on to the target. All that goes over them
// comes late, by the delay, and as fast as it came.
func delayingProxy(target transport.Address, delay string, out io.Writer) error {
	late, err := time.ParseDuration(delay)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", thereIP+":0")
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
			go passOn(destination, source, late)
			passOn(source, destination, late)
		}()
	}
}

// passOn passes on one way of a connection, its end included.
func passOn(to, from net.Conn, late time.Duration) {
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
				queue <- chunk{due: time.Now().Add(late)} // its end is late too
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
