package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// ErrAddress is wrapped when an address cannot be parsed or used.
var ErrAddress = errors.New("transport: unusable address")

// Address is the address of a migration's destination: "unix:PATH" or
// "tcp:HOST:PORT".
type Address struct {
	Network string // "unix" or "tcp"
	Addr    string // PATH or HOST:PORT
}

// ParseAddress parses an address. Its errors wrap ErrAddress.
func ParseAddress(s string) (Address, error) {
	network, addr, ok := strings.Cut(s, ":")
	if !ok || addr == "" || network != "unix" && network != "tcp" {
		return Address{}, fmt.Errorf("%w %q: want unix:PATH or tcp:HOST:PORT", ErrAddress, s)
	}
	if network == "tcp" {
		_, port, err := net.SplitHostPort(addr)
		if err == nil {
			_, err = net.LookupPort("tcp", port)
		}
		if err != nil {
			return Address{}, fmt.Errorf("%w %q: %w (want tcp:HOST:PORT)", ErrAddress, s, err)
		}
	}
	return Address{network, addr}, nil
}

// check returns an error if the address is not of a network of migrations, as the zero
// value is.
func (a Address) check() error {
	if a.Addr == "" || a.Network != "unix" && a.Network != "tcp" {
		return fmt.Errorf("%w %q: want unix:PATH or tcp:HOST:PORT", ErrAddress, a.String())
	}
	return nil
}

func (a Address) String() string { return a.Network + ":" + a.Addr }

// Listen listens on the address. A unix socket has mode 0600 and is removed when
// the listener is closed. Listen replaces a unix socket on which no process listens.
func (a Address) Listen(ctx context.Context) (ln net.Listener, err error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	if a.Network == "unix" {
		ln, err = listenUnix(ctx, a.Addr)
	} else {
		var lc net.ListenConfig
		ln, err = lc.Listen(ctx, a.Network, a.Addr)
	}
	if err != nil {
		return nil, fmt.Errorf("listening on %v: %w", a, err)
	}
	return ln, nil
}

// Dial connects to the address, with TLS if cfg is not nil. ctx bounds the TLS
// handshake too. If cfg has no ServerName, the host of the address is used.
func (a Address) Dial(ctx context.Context, cfg *tls.Config) (conn net.Conn, err error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	if a.Network == "unix" {
		conn, err = dialUnix(ctx, a.Addr)
	} else {
		var d net.Dialer
		conn, err = d.DialContext(ctx, a.Network, a.Addr)
	}
	if err != nil {
		return nil, fmt.Errorf("connecting to %v: %w", a, err)
	}
	enableKeepAlive(conn)
	if cfg == nil {
		return conn, nil
	}
	if cfg.ServerName == "" {
		cfg = cfg.Clone()
		cfg.ServerName, _, _ = net.SplitHostPort(a.Addr)
	}
	t := tls.Client(conn, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, adviseTLS(fmt.Errorf("TLS with %v: %w", a, err))
	}
	return t, nil
}

// enableKeepAlive enables keep-alive probes on an idle TCP connection, so that the
// loss of the peer is detected within about 30 s. The kernel's default is hours.
func enableKeepAlive(conn net.Conn) { setLinkTimeout(conn, 0) }

// defaultLinkTimeout is the default of the LinkTimeout fields.
const defaultLinkTimeout = 30 * time.Second

// setLinkTimeout is enableKeepAlive with another timeout. It sets no
// TCP_USER_TIMEOUT, because the kernel applies that one also to a peer that
// acknowledges but does not read. Watch detects data that is not acknowledged: see
// ackState.
func setLinkTimeout(conn net.Conn, timeout time.Duration) {
	if timeout <= 0 {
		timeout = defaultLinkTimeout
	}
	if tcp, ok := Socket(conn).(*net.TCPConn); ok {
		tcp.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: max(timeout/3, time.Second), Interval: max(timeout/6, time.Second), Count: 4,
		})
	}
}

// TLSFiles are the paths of one side's PEM files: its certificate, its key, and the
// certificates of the authorities that must sign the peer's certificate.
type TLSFiles struct {
	Cert, Key, CA string
}

// Load returns a TLS configuration for the source or the destination. Each side
// presents a certificate and verifies the peer's. The minimum version is TLS 1.2.
func (f TLSFiles) Load() (*tls.Config, error) {
	if f.Cert == "" || f.Key == "" || f.CA == "" {
		return nil, errors.New("TLS: certificate, key and authority certificate are all required")
	}
	cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate %s, key %s: %w", f.Cert, f.Key, err)
	}
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("TLS authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("TLS authority: no certificate in %s", f.CA)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
		RootCAs:      pool,
	}, nil
}
