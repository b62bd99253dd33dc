package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// ServeTLS performs the TLS handshake of a destination. ctx bounds the handshake.
//
// The server issues no session tickets. A source that never reads, such as a QEMU
// without a return path, would close the connection with unread tickets; the kernel
// then resets the connection, and data in flight is lost.
//
// The certificate request names no authorities: the GnuTLS of a QEMU with an RSA key
// would otherwise present no certificate under TLS 1.3.
func ServeTLS(ctx context.Context, conn net.Conn, cfg *tls.Config) (*tls.Conn, error) {
	t := tls.Server(conn, serverConfig(cfg))
	return t, t.HandshakeContext(ctx)
}

// serverConfig returns the copy of cfg that ServeTLS uses.
func serverConfig(cfg *tls.Config) *tls.Config {
	cfg = withoutAuthorityNames(cfg)
	cfg.SessionTicketsDisabled = true
	if choose := cfg.GetConfigForClient; choose != nil {
		cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := choose(hello)
			if chosen != nil {
				chosen = serverConfig(chosen)
			}
			return chosen, err
		}
	}
	return cfg
}

// withoutAuthorityNames returns a copy of cfg that requests a certificate of any
// authority and then verifies it as cfg would.
func withoutAuthorityNames(cfg *tls.Config) *tls.Config {
	out := cfg.Clone()
	switch cfg.ClientAuth {
	case tls.RequireAndVerifyClientCert:
		out.ClientAuth = tls.RequireAnyClientCert
	case tls.VerifyClientCertIfGiven:
		out.ClientAuth = tls.RequestClientCert
	default:
		return out
	}
	out.ClientCAs, out.VerifyPeerCertificate = nil, nil
	out.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) > 0 {
			chains, err := verify(cs.PeerCertificates, cfg.ClientCAs, x509.ExtKeyUsageClientAuth, cfg.Time)
			if err != nil {
				return fmt.Errorf("the source's certificate: %w", err)
			}
			cs.VerifiedChains = chains
		} else if cfg.ClientAuth == tls.RequireAndVerifyClientCert {
			return errors.New("the source presents no certificate")
		}
		if check := cfg.VerifyPeerCertificate; check != nil && len(cs.PeerCertificates) > 0 {
			var raw [][]byte
			for _, c := range cs.PeerCertificates {
				raw = append(raw, c.Raw)
			}
			if err := check(raw, cs.VerifiedChains); err != nil {
				return err
			}
		}
		if check := cfg.VerifyConnection; check != nil {
			return check(cs)
		}
		return nil
	}
	return out
}

func verify(shown []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, now func() time.Time) ([][]*x509.Certificate, error) {
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{usage}}
	if now != nil {
		opts.CurrentTime = now()
	}
	for _, c := range shown[1:] {
		opts.Intermediates.AddCert(c)
	}
	return shown[0].Verify(opts)
}

// ErrPeer is wrapped when the peer's certificate has none of the names that were
// given to RequirePeer.
var ErrPeer = errors.New("transport: peer certificate has another name")

// RequireTLS13 returns a copy of cfg that requires TLS 1.3; nil stays nil.
func RequireTLS13(cfg *tls.Config) *tls.Config {
	if cfg == nil {
		return nil
	}
	cfg = cfg.Clone()
	cfg.MinVersion = tls.VersionTLS13
	return cfg
}

// RequirePeer returns a copy of cfg that accepts only a peer whose certificate has one
// of the names among its subject alternative names: a DNS name, an IP address, or a
// URI such as a SPIFFE ID, which must be equal. The common name is ignored. The result
// can be used by either side. A client verifies the names instead of the dialed name,
// and still verifies the certificate against RootCAs. Resumed sessions are verified
// too. Without names RequirePeer returns cfg.
func RequirePeer(cfg *tls.Config, names ...string) *tls.Config {
	if len(names) == 0 {
		return cfg
	}
	out := cfg.Clone()
	out.InsecureSkipVerify = true // affects clients only; VerifyConnection below verifies more
	check := cfg.VerifyConnection
	names = slices.Clone(names)
	out.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return fmt.Errorf("%w: no certificate (want %s)", ErrPeer, strings.Join(names, " or "))
		}
		if len(cs.VerifiedChains) == 0 { // a client; a server has verified the chain by ClientAuth
			chains, err := verify(cs.PeerCertificates, cfg.RootCAs, x509.ExtKeyUsageServerAuth, cfg.Time)
			if err != nil {
				return err
			}
			cs.VerifiedChains = chains
		}
		if check != nil {
			if err := check(cs); err != nil {
				return err
			}
		}
		leaf := cs.PeerCertificates[0]
		if slices.ContainsFunc(names, func(name string) bool { return hasName(leaf, name) }) {
			return nil
		}
		return fmt.Errorf("%w: certificate for %s (want %s)", ErrPeer, namesOf(leaf), strings.Join(names, " or "))
	}
	if choose := cfg.GetConfigForClient; choose != nil {
		out.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := choose(hello)
			if chosen != nil {
				chosen = RequirePeer(chosen, names...)
			}
			return chosen, err
		}
	}
	return out
}

// hasName reports whether name is one of the certificate's subject alternative names.
func hasName(c *x509.Certificate, name string) bool {
	for _, uri := range c.URIs {
		if uri.String() == name {
			return true
		}
	}
	return name != "" && c.VerifyHostname(name) == nil
}

// namesOf lists the certificate's subject alternative names, up to 8.
func namesOf(c *x509.Certificate) string {
	var names []string
	for _, name := range c.DNSNames {
		names = append(names, fmt.Sprintf("%q", name))
	}
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	for _, uri := range c.URIs {
		names = append(names, fmt.Sprintf("%q", uri))
	}
	if len(names) == 0 {
		return "no name"
	}
	const most = 8
	if len(names) > most {
		names = append(names[:most], "others")
	}
	return strings.Join(names, ", ")
}
