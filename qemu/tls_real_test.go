//go:build realqemu

package qemu_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/certtest"
	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/migration/stored"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/transport"
)

// tlsFolder is a folder of certificates as QEMU's object tls-creds-x509 wants
// it, with the pair as the server's and the client's.
func tlsFolder(t *testing.T, ca *certtest.Authority, pair certtest.Pair) string {
	t.Helper()
	dir := t.TempDir()
	files := map[string][]byte{"ca-cert.pem": ca.PEM()}
	for _, side := range []string{"server", "client"} {
		files[side+"-cert.pem"], files[side+"-key.pem"] = pair.Cert, pair.Key
	}
	for name, pem := range files {
		if err := os.WriteFile(filepath.Join(dir, name), pem, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// withTLS starts a machine that has such certificates, and does not look at
// its own.
func withTLS(t *testing.T, version, endpoint, folder string) *qemutest.VM {
	t.Helper()
	cfg := config(version)
	cfg.Incoming = endpoint == "server"
	cfg.ExtraArgs = []string{"-object", "tls-creds-x509,id=tls0,verify-peer=on,sanity-check=off,endpoint=" + endpoint + ",dir=" + folder}
	return qemutest.Start(t, cfg)
}

// useTLS has a side of a migration use them.
func useTLS(t *testing.T, c *qmp.Client, method multifd.Method, channels int) {
	t.Helper()
	setUp(t, c, method, channels)
	if err := c.SetMigrateParameters(t.Context(), qmp.MigrateParameters{TLSCreds: new("tls0"), TLSHostname: new("localhost")}); err != nil {
		t.Fatal(err)
	}
}

// A machine is received from a QEMU over TLS and sent to another, each side
// showing a certificate to the other, on the main channel as on all others.
func TestRealQEMUMigratesOverTLS(t *testing.T) {
	t.Parallel()
	for _, version := range qemutest.Versions() {
		t.Run(version, func(t *testing.T) {
			ca, err := certtest.NewAuthority()
			if err != nil {
				t.Fatal(err)
			}
			issued, err := ca.Issue("a machine")
			if err != nil {
				t.Fatal(err)
			}
			own, err := issued.TLS()
			if err != nil {
				t.Fatal(err)
			}
			server := &tls.Config{Certificates: []tls.Certificate{own}, ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}
			src := withTLS(t, version, "client", tlsFolder(t, ca, issued))
			if err := src.WaitReady(soon(t)); err != nil {
				t.Fatal(err)
			}
			path, err := receiveOverTLS(t, src, server)
			if err != nil {
				t.Fatalf("%v\n%s", err, src.Stderr())
			}
			src.Kill()
			dst := withTLS(t, version, "server", tlsFolder(t, ca, issued))
			sendOverTLS(t, path, dst, &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{own}})
			sound(t, dst)
		})
	}
}

// A machine whose certificate is of another authority is refused,
// and runs on. It trusts this side, so that it is this side that says no.
func TestRealQEMUTLS_OtherAuthorityIsRefused(t *testing.T) {
	var authorities [2]*certtest.Authority
	var pairs [2]certtest.Pair
	for i := range authorities {
		var err error
		if authorities[i], err = certtest.NewAuthority(); err != nil {
			t.Fatal(err)
		}
		if pairs[i], err = authorities[i].Issue("a machine"); err != nil {
			t.Fatal(err)
		}
	}
	own, err := pairs[0].TLS()
	if err != nil {
		t.Fatal(err)
	}
	src := withTLS(t, "10.0", "client", tlsFolder(t, authorities[0], pairs[1]))
	if err := src.WaitReady(soon(t)); err != nil {
		t.Fatal(err)
	}
	server := &tls.Config{Certificates: []tls.Certificate{own}, ClientCAs: authorities[0].Pool(), ClientAuth: tls.RequireAndVerifyClientCert}
	if _, err := receiveOverTLS(t, src, server); !errors.Is(err, transport.ErrNoSource) {
		t.Errorf("error %v", err)
	}
	runsOn(t, src)
}

// receiveOverTLS has the machine migrate into a snapshot, whose path it returns.
func receiveOverTLS(t *testing.T, src *qemutest.VM, server *tls.Config) (string, error) {
	t.Helper()
	c := dial(t, src.QMPPath())
	useTLS(t, c, multifd.Zlib, 2)
	path := filepath.Join(t.TempDir(), "snap")
	dir, err := store.CreateDir(path)
	if err != nil {
		t.Fatal(err)
	}
	w, err := snapshot.Create(t.Context(), dir, snapshot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := transport.Address{Network: "tcp", Addr: "127.0.0.1:0"}.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Migrate(t.Context(), "tcp:"+ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	received, err := migration.Receive(t.Context(), ln, migration.ReceiveConfig{
		Wire: migration.Wire{Channels: 2, Method: multifd.Zlib}, Sink: w, TLS: server, ConnectTimeout: 5 * time.Second,
	})
	if err != nil {
		w.Abort(t.Context())
		return "", err
	}
	_, err = w.Finish(t.Context(), stored.Meta(received))
	return path, err
}

// sendOverTLS sends the snapshot to a machine that waits for one.
func sendOverTLS(t *testing.T, path string, dst *qemutest.VM, client *tls.Config) {
	t.Helper()
	c := dial(t, dst.QMPPath())
	useTLS(t, c, multifd.Zstd, 3)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := strings.Replace(ln.Addr().String(), "127.0.0.1", "localhost", 1)
	ln.Close()
	if err := c.MigrateIncoming(t.Context(), "tcp:"+ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	to := transport.Address{Network: "tcp", Addr: address}
	over := func(ctx context.Context) (net.Conn, error) { return to.Dial(ctx, client) }
	if err := stored.Send(t.Context(), over, open(t, path), stored.SendConfig{Wire: migration.Wire{Channels: 3, Method: multifd.Zstd}}); err != nil {
		t.Fatalf("%v\n%s", err, dst.Stderr())
	}
}

// QEMU's GnuTLS shows a certificate of an RSA key under TLS 1.3 only where no
// authorities are named.
func TestRealQEMUTLS_AcceptsEveryKindOfKey(t *testing.T) {
	ca, err := certtest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range certtest.Kinds() {
		issued, err := ca.IssueFor(certtest.Request{Name: "a machine", Kind: kind})
		if err != nil {
			t.Fatal(err)
		}
		own, err := issued.TLS()
		if err != nil {
			t.Fatal(err)
		}
		server := &tls.Config{Certificates: []tls.Certificate{own}, ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}
		for version, priority := range map[uint16]string{tls.VersionTLS12: "NORMAL:-VERS-TLS1.3", tls.VersionTLS13: "NORMAL"} {
			t.Run(string(kind)+"/"+tls.VersionName(version), func(t *testing.T) {
				cfg := config("10.0")
				cfg.Paused = true
				cfg.ExtraArgs = []string{"-object", "tls-creds-x509,id=tls0,verify-peer=on,sanity-check=off,endpoint=client,priority=" + priority + ",dir=" + tlsFolder(t, ca, issued)}
				src := qemutest.Start(t, cfg)
				named := transport.RequirePeer(server, "localhost")
				check := named.VerifyConnection
				named.VerifyConnection = func(cs tls.ConnectionState) error {
					if cs.Version != version {
						t.Errorf("it speaks %s", tls.VersionName(cs.Version))
					}
					return check(cs)
				}
				if _, err := receiveOverTLS(t, src, named); err != nil {
					t.Errorf("%v\n%s", err, src.Stderr())
				}
			})
		}
	}
}
