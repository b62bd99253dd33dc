// Package certtest makes certificates for tests.
package certtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"time"
)

// Authority issues certificates for servers and clients. They are valid for an hour and,
// by default, for the names of the local host.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// NewAuthority makes an authority.
func NewAuthority() (*Authority, error) {
	cert, key, err := issue(Request{Name: "ca"}, nil)
	return &Authority{cert, key}, err
}

// PEM returns the authority's certificate.
func (a *Authority) PEM() []byte { return certificatePEM(a.cert) }

// Pool returns a pool that holds only this authority.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// Pair is a certificate and its key, in PEM.
type Pair struct{ Cert, Key []byte }

// Kind is a kind of key.
type Kind string

// The kinds of keys.
const (
	ECDSA   Kind = "ecdsa"
	RSA     Kind = "rsa"
	Ed25519 Kind = "ed25519"
)

// Kinds returns all kinds of keys.
func Kinds() []Kind { return []Kind{ECDSA, RSA, Ed25519} }

// Request describes a certificate. Without names, the certificate is for localhost and
// 127.0.0.1. Without a kind, its key is of the kind ECDSA.
type Request struct {
	Name string // common name
	Kind Kind
	DNS  []string
	IPs  []net.IP
	URIs []string
}

// Issue issues a certificate with the common name.
func (a *Authority) Issue(name string) (Pair, error) { return pair(Request{Name: name}, a) }

// IssueFor issues a certificate for the request.
func (a *Authority) IssueFor(r Request) (Pair, error) { return pair(r, a) }

// Stranger makes a self-signed certificate, which no authority signed.
func Stranger(name string) (Pair, error) { return pair(Request{Name: name}, nil) }

func pair(r Request, by *Authority) (Pair, error) {
	cert, key, err := issue(r, by)
	if err != nil {
		return Pair{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return Pair{certificatePEM(cert), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}, err
}

// TLS returns the certificate and its key in the form that package tls uses.
func (p Pair) TLS() (tls.Certificate, error) { return tls.X509KeyPair(p.Cert, p.Key) }

func certificatePEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func newKey(kind Kind) (crypto.Signer, error) {
	switch kind {
	case RSA:
		return rsa.GenerateKey(rand.Reader, 2048)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// issue makes a certificate; without an authority it signs itself.
func issue(r Request, by *Authority) (*x509.Certificate, crypto.Signer, error) {
	key, err := newKey(r.Kind)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: r.Name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: r.IPs, DNSNames: r.DNS,
		// QEMU requires both.
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:        r.Name == "ca", BasicConstraintsValid: true,
	}
	for _, text := range r.URIs {
		uri, err := url.Parse(text)
		if err != nil {
			return nil, nil, err
		}
		template.URIs = append(template.URIs, uri)
	}
	if len(r.DNS)+len(r.IPs)+len(r.URIs) == 0 {
		template.IPAddresses, template.DNSNames = []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"localhost"}
	}
	if template.IsCA {
		template.KeyUsage = x509.KeyUsageCertSign
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}
