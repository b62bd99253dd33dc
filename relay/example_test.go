package relay_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"

	"github.com/vmferry/vmferry/internal/certtest"
	"github.com/vmferry/vmferry/relay"
	"github.com/vmferry/vmferry/transport"
)

// sourceProxy is the source's half of a migration proxy, such as KubeVirt's: QEMU's
// connections come in on a unix socket and go out over TLS. It is a proxy that copies
// bytes, with Source in place of the two calls of io.Copy. ServeSource is the same loop,
// with the links dialed side by side.
func sourceProxy(ctx context.Context, r *relay.Relay, qemu net.Listener, node string, cfg *tls.Config) error {
	for {
		conn, err := qemu.Accept()
		if err != nil {
			return err
		}
		link, err := tls.Dial("tcp", node, cfg)
		if err != nil {
			log.Print("the other node: ", err)
			conn.Close()
			continue
		}
		go r.Source(ctx, conn, link)
	}
}

// targetProxy is the destination's half: TLS comes in, and QEMU's unix socket is dialed.
// Destination does the handshake within LinkTimeout, and calls dial when it is the
// connection's turn.
func targetProxy(ctx context.Context, r *relay.Relay, links net.Listener, cfg *tls.Config, dial transport.Dialer) error {
	for {
		link, err := links.Accept()
		if err != nil {
			return err
		}
		go r.Destination(ctx, tls.Server(link, cfg), dial)
	}
}

// Both halves of a migration proxy, and a connection through them.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir, err := os.MkdirTemp("", "")
	check(err)
	defer os.RemoveAll(dir)
	server, client := exampleTLS()

	// The proxy on the target's node, with a listener in place of its QEMU.
	target, err := relay.New(relay.Config{Cache: 64 << 20})
	check(err)
	qemu, err := net.Listen("unix", filepath.Join(dir, "target-qemu"))
	check(err)
	links, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	defer links.Close()
	go targetProxy(ctx, target, links, server, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", qemu.Addr().String())
	})

	// The proxy on the source's node.
	source, err := relay.New(relay.Config{Cache: 64 << 20})
	check(err)
	front, err := net.Listen("unix", filepath.Join(dir, "source"))
	check(err)
	defer front.Close()
	go sourceProxy(ctx, source, front, links.Addr().String(), client)

	// QEMU connects and sends; the other QEMU answers.
	from, err := net.Dial("unix", front.Addr().String())
	check(err)
	to, err := qemu.Accept()
	check(err)
	fmt.Fprint(from, "a machine")
	check(from.(*net.UnixConn).CloseWrite())
	got, err := io.ReadAll(to)
	check(err)
	fmt.Fprint(to, "runs")
	check(to.(*net.UnixConn).CloseWrite())
	answer, err := io.ReadAll(from)
	check(err)
	fmt.Printf("%s %s\n", got, answer)
	fmt.Println("bytes from the source's QEMU:", source.Stats().Total.FromQEMU)
	// Output:
	// a machine runs
	// bytes from the source's QEMU: 9
}

// ServeSource and ServeDestination accept and dial.
func ExampleRelay_ServeSource() {
	ctx, cancel := context.WithCancel(context.Background())
	server, client := exampleTLS()
	dir, err := os.MkdirTemp("", "")
	check(err)
	defer os.RemoveAll(dir)
	at := func(name string) transport.Address {
		return transport.Address{Network: "unix", Addr: filepath.Join(dir, name)}
	}
	listen := func(a transport.Address) net.Listener {
		ln, err := a.Listen(ctx)
		check(err)
		return ln
	}
	qemu, link, front := listen(at("qemu")), listen(at("link")), listen(at("front"))

	source, err := relay.New(relay.Config{})
	check(err)
	destination, err := relay.New(relay.Config{})
	check(err)
	ended := make(chan error)
	go func() {
		ended <- destination.ServeDestination(ctx, link, server, func(ctx context.Context) (net.Conn, error) { return at("qemu").Dial(ctx, nil) })
	}()
	go func() {
		ended <- source.ServeSource(ctx, front, func(ctx context.Context) (net.Conn, error) { return at("link").Dial(ctx, client) })
	}()

	from, err := at("front").Dial(ctx, nil)
	check(err)
	to, err := qemu.Accept()
	check(err)
	fmt.Fprint(from, "a machine")
	got := make([]byte, 9)
	_, err = io.ReadFull(to, got)
	check(err)
	fmt.Printf("%s\n", got)

	cancel() // breaks what is under way; Drain would let it end
	fmt.Println(<-ended, <-ended)
	// Output:
	// a machine
	// <nil> <nil>
}

// exampleTLS makes certificates for both nodes, which verify each other's.
func exampleTLS() (server, client *tls.Config) {
	authority, err := certtest.NewAuthority()
	check(err)
	pair, err := authority.IssueFor(certtest.Request{Name: "node", DNS: []string{"node.example"}})
	check(err)
	cert, err := pair.TLS()
	check(err)
	pool := authority.Pool()
	server = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	client = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: pool, ServerName: "node.example"}
	return server, client
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
