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

// ServeTLS takes the part of the server on a connection.
//
// It hands out no session tickets. A source that never reads what comes back,
// such as a QEMU without a return path, would have them unread when it closes the
// connection, which makes that a reset: what is still on the way is lost then.
//
// And it names no authorities when it asks for a certificate: the GnuTLS of a QEMU
// that has an RSA key then shows none under TLS 1.3.
func ServeTLS(ctx context.Context, conn net.Conn, cfg *tls.Config) (*tls.Conn, error) {
	t := tls.Server(conn, forSources(cfg))
	return t, t.HandshakeContext(ctx)
}

// forSources is cfg as a server of sources uses it: see serveTLS.
func forSources(cfg *tls.Config) *tls.Config {
	cfg = withoutAuthorities(cfg)
	cfg.SessionTicketsDisabled = true
	if choose := cfg.GetConfigForClient; choose != nil {
		cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := choose(hello)
			if chosen != nil {
				chosen = forSources(chosen)
			}
			return chosen, err
		}
	}
	return cfg
}

// withoutAuthorities returns a copy of cfg that asks for a certificate of any
// authority, and then checks it as cfg would have it checked.
func withoutAuthorities(cfg *tls.Config) *tls.Config {
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
			return errors.New("the source shows no certificate")
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

// ErrPeer is wrapped when the other side's certificate has none of the names that
// RequirePeer was given.
var ErrPeer = errors.New("the peer's certificate has another name")

// RequirePeer returns a copy of cfg that takes only a peer whose certificate has one
// of the names: a DNS name or an IP address among its subject alternative names, or
// such a URI (as SPIFFE has them), exactly. A certificate's common name does not
// count. It is for either side. As a client, the names take the place of the name
// that was dialled; the certificate is checked against RootCAs all the same.
// Sessions that are resumed are checked too. Without names it is cfg.
func RequirePeer(cfg *tls.Config, names ...string) *tls.Config {
	if len(names) == 0 {
		return cfg
	}
	out := cfg.Clone()
	out.InsecureSkipVerify = true // the check below is stricter; it concerns clients only
	check := cfg.VerifyConnection
	names = slices.Clone(names)
	out.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return fmt.Errorf("%w: it shows no certificate (want %s)", ErrPeer, strings.Join(names, " or "))
		}
		if len(cs.VerifiedChains) == 0 { // as a client; a server has verified by its ClientAuth
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
		return fmt.Errorf("%w: it is for %s (want %s)", ErrPeer, namesOf(leaf), strings.Join(names, " or "))
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

// hasName says whether the certificate has the name among its subject alternative
// names.
func hasName(c *x509.Certificate, name string) bool {
	for _, uri := range c.URIs {
		if uri.String() == name {
			return true
		}
	}
	return name != "" && c.VerifyHostname(name) == nil
}

// namesOf lists the certificate's names.
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
