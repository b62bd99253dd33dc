package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/certtest"
)

// shake performs one TLS handshake and returns the error of each side.
func listenTCP(t *testing.T) net.Listener {
	t.Helper()
	ln, err := Address{"tcp", "127.0.0.1:0"}.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func shake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	ln := listenTCP(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		defer conn.Close()
		s, err := ServeTLS(ctx, conn, server)
		if err == nil {
			_, err = s.Write([]byte{1})
		}
		done <- err
	}()
	conn, clientErr := Address{"tcp", ln.Addr().String()}.Dial(ctx, client)
	if clientErr == nil {
		_, clientErr = conn.Read(make([]byte, 1)) // under TLS 1.3 the server's verdict comes after
		conn.Close()
	}
	return <-done, clientErr
}

type authority struct {
	*certtest.Authority
	t *testing.T
}

func newAuthority(t *testing.T) authority {
	ca, err := certtest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return authority{ca, t}
}

// config returns the configuration of a side that presents a certificate on request.
func (a authority) config(r certtest.Request) *tls.Config {
	a.t.Helper()
	pair, err := a.IssueFor(r)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		a.t.Fatal(err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{cert}, RootCAs: a.Pool(), ClientCAs: a.Pool(), ClientAuth: tls.RequireAndVerifyClientCert,
	}
}

// A source that obeys the list of authorities, as GnuTLS does, receives an empty list
// and so presents its certificate.
func TestServeTLS_AcceptsEveryKeyTypeInEveryVersion(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	for _, kind := range certtest.Kinds() {
		server, source := ca.config(certtest.Request{Name: "there", Kind: kind}), ca.config(certtest.Request{Name: "here", Kind: kind})
		stranger := other.config(certtest.Request{Name: "stranger", Kind: kind})
		stranger.RootCAs = ca.Pool()
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(fmt.Sprintf("%s/%s", kind, tls.VersionName(version)), func(t *testing.T) {
				client, asked := source.Clone(), 0
				client.MinVersion, client.MaxVersion = version, version
				client.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if asked++; len(info.AcceptableCAs) != 0 {
						t.Errorf("%d authorities are named", len(info.AcceptableCAs))
					}
					return &source.Certificates[0], nil
				}
				if there, here := shake(t, server, client); there != nil || here != nil || asked != 1 {
					t.Errorf("server: %v; client, asked %d times: %v", there, asked, here)
				}
				client = stranger.Clone()
				client.MinVersion, client.MaxVersion = version, version
				var unknown x509.UnknownAuthorityError
				if there, here := shake(t, server, client); !errors.As(there, &unknown) || here == nil {
					t.Errorf("another authority: server: %v; client: %v", there, here)
				}
				client.Certificates = nil
				if there, here := shake(t, server, client); there == nil || here == nil {
					t.Errorf("no certificate: server: %v; client: %v", there, here)
				}
			})
		}
	}
}

// The callbacks of the given configuration are called with the verified chains.
func TestServeTLS_KeepsTheChecksOfTheConfiguration(t *testing.T) {
	ca := newAuthority(t)
	server, client := ca.config(certtest.Request{Name: "there"}), ca.config(certtest.Request{Name: "here"})
	var calls []string
	server.VerifyPeerCertificate = func(raw [][]byte, chains [][]*x509.Certificate) error {
		calls = append(calls, fmt.Sprintf("certificate %d %d", len(raw), len(chains)))
		return nil
	}
	refusal := errors.New("not today")
	server.VerifyConnection = func(cs tls.ConnectionState) error {
		calls = append(calls, fmt.Sprintf("connection %d", len(cs.VerifiedChains)))
		return refusal
	}
	if there, _ := shake(t, server, client); !errors.Is(there, refusal) || strings.Join(calls, ", ") != "certificate 1 1, connection 1" {
		t.Errorf("calls %q, error %v", calls, there)
	}
	server = ca.config(certtest.Request{Name: "there"})
	server.ClientAuth = tls.VerifyClientCertIfGiven
	client.Certificates = nil
	if there, here := shake(t, server, client); there != nil || here != nil {
		t.Errorf("a certificate was not required: server: %v; client: %v", there, here)
	}
	chosen := ca.config(certtest.Request{Name: "there"})
	server.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return chosen, nil }
	if there, here := shake(t, server, client); there == nil || here == nil {
		t.Errorf("the chosen configuration requires a certificate: server: %v; client: %v", there, here)
	}
}

func TestRequirePeer_AcceptsOnlyACertificateWithTheName(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	named := certtest.Request{
		Name: "common", DNS: []string{"host1.example", "*.cluster.example"}, IPs: []net.IP{net.IPv4(10, 0, 0, 7)},
		URIs: []string{"spiffe://example/vm/host1"},
	}
	plain := certtest.Request{Name: "localhost"}
	for _, tt := range []struct {
		names []string
		taken bool
	}{
		{[]string{"host1.example"}, true},
		{[]string{"HOST1.example"}, true},
		{[]string{"node3.cluster.example"}, true},
		{[]string{"10.0.0.7"}, true},
		{[]string{"spiffe://example/vm/host1"}, true},
		{[]string{"host2.example", "spiffe://example/vm/host1"}, true},
		{nil, true},
		{[]string{"common"}, false}, // the common name does not count
		{[]string{"host2.example"}, false},
		{[]string{"10.0.0.8"}, false},
		{[]string{"spiffe://example/vm/host"}, false},
		{[]string{"spiffe://example/vm/host10"}, false},
		{[]string{"*"}, false},
		{[]string{""}, false},
	} {
		// The source's certificate, at the destination.
		server, client := ca.config(plain), ca.config(named)
		there, here := shake(t, RequirePeer(server, tt.names...), client)
		if tt.taken != (there == nil && here == nil) || !tt.taken && !errors.Is(there, ErrPeer) {
			t.Errorf("%q: as the source: server: %v; client: %v", tt.names, there, here)
		}
		if tt.names == nil {
			continue
		}
		// The destination's certificate, which lacks the dialed name.
		there, here = shake(t, ca.config(named), RequirePeer(ca.config(plain), tt.names...))
		if tt.taken != (there == nil && here == nil) || !tt.taken && !errors.Is(here, ErrPeer) {
			t.Errorf("%q: as the destination: server: %v; client: %v", tt.names, there, here)
		}
	}
	// The right name from another authority.
	server, client := ca.config(plain), other.config(named)
	client.RootCAs = ca.Pool()
	if there, here := shake(t, RequirePeer(server, "host1.example"), client); there == nil || here == nil {
		t.Errorf("another authority's source: server: %v; client: %v", there, here)
	}
	if there, here := shake(t, other.config(named), RequirePeer(ca.config(plain), "host1.example")); there == nil || here == nil {
		t.Errorf("another authority's destination: server: %v; client: %v", there, here)
	}
	// Without RequirePeer the dialed name is verified.
	if there, here := shake(t, ca.config(named), ca.config(plain)); there == nil || here == nil {
		t.Errorf("the dialed name: server: %v; client: %v", there, here)
	}
}

// A resumed session is verified too.
func TestRequirePeer_AlsoChecksResumedSessions(t *testing.T) {
	ca := newAuthority(t)
	server, client := ca.config(certtest.Request{Name: "there", DNS: []string{"there.example"}}), ca.config(certtest.Request{Name: "here"})
	client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	connect := func(client *tls.Config) (resumed bool, err error) {
		ln := listenTCP(t)
		go func() {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			s := tls.Server(conn, server) // which hands out tickets
			if s.Handshake() == nil {
				s.Write([]byte{1})
			}
		}()
		conn, err := Address{"tcp", ln.Addr().String()}.Dial(t.Context(), client)
		if err != nil {
			return false, err
		}
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
		return conn.(*tls.Conn).ConnectionState().DidResume, err
	}
	if _, err := connect(RequirePeer(client, "there.example")); err != nil {
		t.Fatal(err)
	}
	if resumed, err := connect(RequirePeer(client, "there.example")); err != nil || !resumed {
		t.Fatalf("resumed: %v, error %v: the session was not resumed", resumed, err)
	}
	if _, err := connect(RequirePeer(client, "other.example")); !errors.Is(err, ErrPeer) {
		t.Errorf("error %v", err)
	}
}
