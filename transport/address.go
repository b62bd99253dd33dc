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

// ErrAddress is wrapped by errors about addresses that cannot be used.
var ErrAddress = errors.New("unusable address")

// Address is where a migration goes: "unix:PATH" or "tcp:HOST:PORT".
type Address struct {
	Network, Addr string
}

// ParseAddress reads an address.
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

func (a Address) String() string { return a.Network + ":" + a.Addr }

// Listen listens on the address. A unix socket can be opened by its owner
// only, and is removed when the listener is closed.
func (a Address) Listen(ctx context.Context) (ln net.Listener, err error) {
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

// Dial connects to the address, with TLS if cfg is not nil.
func (a Address) Dial(ctx context.Context, cfg *tls.Config) (conn net.Conn, err error) {
	if a.Network == "unix" {
		conn, err = dialUnix(ctx, a.Addr)
	} else {
		var d net.Dialer
		conn, err = d.DialContext(ctx, a.Network, a.Addr)
	}
	if err != nil {
		return nil, fmt.Errorf("connecting to %v: %w", a, err)
	}
	tune(conn)
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

// tune makes a TCP connection on which nothing is sent notice within half a minute
// or so that the other side is gone, which without a word from it takes the kernel
// hours.
func tune(conn net.Conn) { setLinkTimeout(conn, 0) }

// defaultLinkTimeout is how long a link may be dead.
const defaultLinkTimeout = 30 * time.Second

// setLinkTimeout is tune with another time. It sets no TCP_USER_TIMEOUT: the kernel
// counts by it also while a peer that acknowledges does not read. What was sent and
// is not acknowledged is the watch's, see unanswered.
func setLinkTimeout(conn net.Conn, timeout time.Duration) {
	if timeout <= 0 {
		timeout = defaultLinkTimeout
	}
	if tcp, ok := socketOf(conn).(*net.TCPConn); ok {
		tcp.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: max(timeout/3, time.Second), Interval: max(timeout/6, time.Second), Count: 4,
		})
	}
}

// TLSFiles are the PEM files of one side: its certificate and key, and the
// authority that the other side's certificate has to come from.
type TLSFiles struct {
	Cert, Key, CA string
}

// Load makes a configuration for either side of a migration: both show a
// certificate and both check the other's.
func (f TLSFiles) Load() (*tls.Config, error) {
	if f.Cert == "" || f.Key == "" || f.CA == "" {
		return nil, errors.New("TLS needs a certificate, its key and the authority's certificate")
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
