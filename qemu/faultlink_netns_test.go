//go:build netns && realqemu

package qemu_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/certtest"
	"github.com/vmferry/vmferry/internal/slowlink"
)

// linkRate is the rate of a link, in the notation of tc and in bits a second.
type linkRate struct {
	name   string
	bits   float64
	trials int // for each kind of fault
}

const (
	// linkDelay is that of each direction.
	linkDelay = 20 * time.Millisecond
	// linkTimeout is the --link-timeout of all commands.
	linkTimeout = 2 * time.Second
	// destinationPort is where the destination's command listens, and proxyPort where the
	// proxy in front of it does.
	destinationPort = 7400
	proxyPort       = 7401
)

// faultyLink is a slow link with a delaying proxy, which can be cut and stalled.
type faultyLink struct {
	*slowlink.Link
	t     *testing.T
	rate  linkRate
	certs string
	stop  func() error // of the proxy, nil without one
}

var endNames = map[slowlink.End]string{slowlink.Source: "source", slowlink.Destination: "destination"}

func newFaultyLink(t *testing.T, rate linkRate) *faultyLink {
	t.Helper()
	l := &faultyLink{Link: slowlink.Start(t), t: t, rate: rate, certs: t.TempDir()}
	t.Cleanup(l.cut)
	ca, err := certtest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"ca.pem": ca.PEM()}
	for _, name := range endNames {
		own, err := ca.IssueFor(certtest.Request{Name: name, DNS: []string{name}})
		if err != nil {
			t.Fatal(err)
		}
		files[name+".pem"], files[name+"-key.pem"] = own.Cert, own.Key
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(l.certs, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// repair makes a link whole that was cut or stalled, and new ones.
func (l *faultyLink) repair() {
	l.t.Helper()
	l.cut()
	l.SetUp()
	if err := l.LimitRate(l.rate.name); err != nil {
		l.t.Fatal(err)
	}
	l.join()
	// The kernel takes a moment to find the way again.
	l.await("the link is up", func() (bool, error) {
		ctx, cancel := context.WithTimeout(l.t.Context(), linkTimeout)
		defer cancel()
		conn, err := l.Dial(ctx, slowlink.Source, l.connectAddress())
		if err == nil {
			conn.Close()
		}
		return err == nil, nil
	})
}

// join lets the link make connections, after it was cut.
func (l *faultyLink) join() {
	l.t.Helper()
	proxy := slowlink.Proxy{Delay: linkDelay, Window: slowlink.WindowOf(l.rate.bits, linkDelay)}
	var err error
	if _, l.stop, err = l.StartProxyAt(proxyPort, proxy, l.listenAddress()); err != nil {
		l.t.Fatal(err)
	}
}

// cut closes all connections of the link, and lets it make no more.
func (l *faultyLink) cut() {
	if l.stop == nil {
		return
	}
	if err := l.stop(); err != nil {
		l.t.Error(err)
	}
	l.stop = nil
}

// listenAddress is where the destination's command listens, and connectAddress where the
// source's connects.
func (l *faultyLink) listenAddress() string  { return addressAt(destinationPort) }
func (l *faultyLink) connectAddress() string { return addressAt(proxyPort) }

func addressAt(port int) string { return slowlink.Destination.IP() + ":" + strconv.Itoa(port) }

// start starts vmferry at an end of the link, with TLS.
func (l *faultyLink) start(e slowlink.End, args ...string) *command {
	l.t.Helper()
	own, peer := endNames[e], endNames[1-e]
	file := func(name string) string { return filepath.Join(l.certs, name) }
	args = append(args, "--link-timeout", linkTimeout.String(), "--tls-cert", file(own+".pem"), "--tls-key", file(own+"-key.pem"), "--tls-ca", file("ca.pem"), "--tls-peer", peer)
	return start(l.t, l.Command(l.t.Context(), e, program, args...))
}

// awaitListener waits until the destination's command listens.
func (l *faultyLink) awaitListener() {
	l.t.Helper()
	l.await("the destination listens", func() (listens bool, err error) {
		err = l.Do(slowlink.Destination, func() (err error) {
			listens, err = portListens(destinationPort)
			return err
		})
		return listens, err
	})
}

// awaitNoProcess waits until no vmferry is left at an end. A guard may outlive its command.
func (l *faultyLink) awaitNoProcess(e slowlink.End) {
	l.t.Helper()
	l.await("no vmferry is left at the "+endNames[e], func() (bool, error) {
		out, err := exec.Command("ip", "netns", "pids", l.Namespace(e)).Output()
		for _, pid := range strings.Fields(string(out)) {
			if exe, err := os.Readlink("/proc/" + pid + "/exe"); err == nil && exe == program {
				return false, nil
			}
		}
		return true, err
	})
}

func (l *faultyLink) await(what string, is func() (bool, error)) {
	l.t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		ok, err := is()
		switch {
		case err != nil:
			l.t.Fatal(err)
		case ok:
			return
		case time.Since(began) > hang:
			l.t.Fatalf("waited %v until %s", hang, what)
		}
	}
}
