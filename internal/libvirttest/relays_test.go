//go:build libvirt

package libvirttest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// relays are a relay beside each host, with a TCP link between them.
type relays struct {
	socket              string // the path that both hosts' QEMUs use
	source, destination *relayProcess
}

// socketCount numbers the sockets, since tests run at the same time.
var socketCount atomic.Int32

// startRelays starts relays for migrations from one host to the other, with the given
// arguments for the link. They end with the test.
func startRelays(t *testing.T, from, to *host, linkArgs []string) *relays {
	t.Helper()
	return startRelaysAt(t, from, to, linkArgs, "")
}

// startRelaysAt is startRelays for relays whose sockets have another suffix than those of
// the QEMUs.
func startRelaysAt(t *testing.T, from, to *host, linkArgs []string, suffix string) *relays {
	t.Helper()
	address := freeAddress(t)
	name := fmt.Sprintf("%s%s%d", from.name, to.name, socketCount.Add(1))
	r := &relays{socket: filepath.Join(from.shared, name)}
	accepts, dials := filepath.Join(from.own(), name+suffix), filepath.Join(to.own(), name+suffix)
	r.destination = startRelay(t, append([]string{"--link", "destination", "--listen", "tcp:" + address, "--connect", "unix:" + dials}, linkArgs...))
	await(t, "the destination's relay to listen", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil || !r.destination.alive()
	})
	r.source = startRelay(t, append([]string{"--link", "source", "--listen", "unix:" + accepts, "--connect", "tcp:" + address}, linkArgs...))
	await(t, "the source's relay to listen", func() bool {
		_, err := os.Stat(accepts)
		return !errors.Is(err, fs.ErrNotExist) || !r.source.alive()
	})
	for _, p := range []*relayProcess{r.destination, r.source} {
		if !p.alive() {
			t.Fatalf("vmferry relay ended: %s", p.output())
		}
	}
	return r
}

// freeAddress returns a loopback address on which nothing listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	return ln.Addr().String()
}

// relayProcess is a running vmferry relay.
type relayProcess struct {
	cmd    *exec.Cmd
	exited chan struct{}
	mu     sync.Mutex
	out    bytes.Buffer
}

func startRelay(t *testing.T, args []string) *relayProcess {
	t.Helper()
	p := &relayProcess{cmd: exec.Command(vmferry, append([]string{"relay"}, args...)...), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The parent-death signal comes when the thread ends that started the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.cmd.Wait()
			close(p.exited)
		}
	}()
	must(t, <-started)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("output of vmferry relay %q:\n%s", args, p.output())
		}
		p.kill()
	})
	return p
}

// kill kills the relay, as a crash would, and waits until the process has ended.
func (p *relayProcess) kill() {
	p.cmd.Process.Kill()
	<-p.exited
}

func (p *relayProcess) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Write collects the output.
func (p *relayProcess) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *relayProcess) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}
