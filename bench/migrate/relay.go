package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/bench/harness"
	"github.com/vmferry/vmferry/internal/certtest"
	"github.com/vmferry/vmferry/internal/slowlink"
)

// Ports of the destination. A proxy that delays stands before them.
const (
	qemuPort  = 7401
	relayPort = 7400
)

// relay is a running relay.
type relay struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
}

// pair is a pair of relays with the link between them.
type pair struct {
	source, destination *relay
	// The addresses that the QEMUs use.
	connect, listen string
}

// startPair starts both relays. address is that at which the source reaches the destination's
// relay.
func (b *bench) startPair(ctx context.Context, w *relayWay, address string) (p *pair, err error) {
	in, out := filepath.Join(b.dir, "source"), filepath.Join(b.dir, "destination")
	p = &pair{connect: "unix:" + in, listen: "unix:" + out}
	defer func() {
		if err != nil {
			p.stop()
		}
	}()
	at := fmt.Sprintf("tcp:%s:%d", slowlink.Destination.IP(), relayPort)
	if p.destination, err = b.startRelay(ctx, slowlink.Destination, w, at, p.listen); err != nil {
		return nil, err
	}
	if err := p.destination.await(ctx, func() bool { return listens(p.destination.cmd.Process.Pid, relayPort) }); err != nil {
		return nil, err
	}
	if p.source, err = b.startRelay(ctx, slowlink.Source, w, p.connect, "tcp:"+address); err != nil {
		return nil, err
	}
	return p, p.source.await(ctx, func() bool {
		_, err := os.Stat(in)
		return err == nil
	})
}

func (b *bench) startRelay(ctx context.Context, e slowlink.End, w *relayWay, listen, connect string) (*relay, error) {
	name := endNames[e]
	args := append([]string{"relay", "--link", name, "--listen", listen, "--connect", connect}, w.flags...)
	if w.tls {
		dir := b.certificates(e)
		args = append(args, "--tls-cert", filepath.Join(dir, "server-cert.pem"), "--tls-key", filepath.Join(dir, "server-key.pem"),
			"--tls-ca", filepath.Join(dir, "ca-cert.pem"), "--tls-peer", (1 - e).IP())
	} else {
		args = append(args, "--insecure")
	}
	r := &relay{cmd: b.wire.Command(ctx, e, b.vmferry, args...)}
	r.cmd.Stdout, r.cmd.Stderr = &r.stderr, &r.stderr
	return r, r.cmd.Start()
}

const relayStart = time.Minute

// await waits until ready returns true. It fails if the relay ends first.
func (r *relay) await(ctx context.Context, ready func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, relayStart)
	defer cancel()
	for !ready() {
		if ended(r.cmd.Process.Pid) || ctx.Err() != nil {
			r.stop()
			return fmt.Errorf("%s does not listen: %s", strings.Join(r.cmd.Args, " "), r.stderr.Bytes())
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

// ended reports whether a child process has ended.
func ended(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(text, []byte(") Z "))
}

// listens reports whether there is a listener on a TCP port in the network namespace of a
// process. A connection would tell, too, but a relay carries it to its QEMU.
func listens(pid, port int) bool {
	for _, file := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			const listening = "0A"
			if len(f) > 3 && f[3] == listening && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				return true
			}
		}
	}
	return false
}

func (r *relay) stop() {
	if r != nil && r.cmd.Process != nil && r.cmd.ProcessState == nil {
		r.cmd.Process.Signal(syscall.SIGTERM)
		defer time.AfterFunc(relayStart, func() { r.cmd.Process.Kill() }).Stop()
		r.cmd.Wait()
	}
}

func (p *pair) stop() {
	p.source.stop()
	p.destination.stop()
}

// logs returns what the relays wrote. They must have ended.
func (p *pair) logs() string {
	return fmt.Sprintf("source's relay: %s\ndestination's relay: %s", p.source.stderr.Bytes(), p.destination.stderr.Bytes())
}

func (p *pair) cpu() (c [2]time.Duration, err error) {
	for i, r := range []*relay{p.source, p.destination} {
		u, err := harness.UsageOf(r.cmd.Process.Pid)
		if err != nil {
			return c, err
		}
		c[i] = u.CPU
	}
	return c, nil
}

var endNames = [2]string{slowlink.Source: "source", slowlink.Destination: "destination"}

// certificates is the folder with the certificates of an end, for QEMU and for a relay.
func (b *bench) certificates(e slowlink.End) string {
	return filepath.Join(b.dir, "tls-"+endNames[e])
}

// writeCertificates writes certificates for both ends, under the names that QEMU requires.
func (b *bench) writeCertificates() error {
	ca, err := certtest.NewAuthority()
	if err != nil {
		return err
	}
	for _, e := range []slowlink.End{slowlink.Source, slowlink.Destination} {
		own, err := ca.IssueFor(certtest.Request{Name: endNames[e], IPs: []net.IP{net.ParseIP(e.IP())}})
		if err != nil {
			return err
		}
		dir := b.certificates(e)
		errs := []error{os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "ca-cert.pem"), ca.PEM(), 0o600)}
		for _, role := range []string{"client", "server"} {
			errs = append(errs, os.WriteFile(filepath.Join(dir, role+"-cert.pem"), own.Cert, 0o600),
				os.WriteFile(filepath.Join(dir, role+"-key.pem"), own.Key, 0o600))
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}
