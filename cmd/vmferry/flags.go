package main

import (
	"crypto/tls"
	"errors"
	"log/slog"

	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/multifd"
)

// wireFlags say how pages go over the wire.
type wireFlags struct {
	Channels    int    `default:"2" help:"Multifd channels (1 to 255); the other side has to have as many." placeholder:"N"`
	Compression string `default:"none" enum:"none,zlib,zstd,qpl,uadk,qatzip" help:"Method on the wire: ${enum}; the other side has to have the same."`
	Level       int    `default:"0" help:"Compression level of the method, 0 for its default." placeholder:"N"`
}

func (f *wireFlags) method() (multifd.Method, error) {
	if f.Channels < 1 || f.Channels > multifd.MaxChannels {
		return nil, errors.New("--channels: want 1 to 255")
	}
	return multifd.MethodNamed(f.Compression)
}

// tlsFlags say how a connection over a network is kept private.
type tlsFlags struct {
	TLSCert  string `name:"tls-cert" help:"Certificate of this side, PEM." placeholder:"FILE"`
	TLSKey   string `name:"tls-key" help:"Key of the certificate, PEM." placeholder:"FILE"`
	TLSCA    string `name:"tls-ca" help:"Authority that the other side's certificate has to come from, PEM." placeholder:"FILE"`
	Insecure bool   `help:"Use TCP without TLS: whoever can connect can read or replace the machine's memory."`
}

// config gives the configuration for an address, nil for none.
func (f *tlsFlags) config(addr migration.Address, server bool) (*tls.Config, error) {
	files := migration.TLSFiles{Cert: f.TLSCert, Key: f.TLSKey, CA: f.TLSCA}
	if files != (migration.TLSFiles{}) {
		if f.Insecure {
			return nil, errors.New("--insecure and --tls-... say opposite things")
		}
		return files.Load()
	}
	if addr.Network == "tcp" && !f.Insecure {
		doing := "connecting over"
		if server {
			doing = "listening on"
		}
		return nil, errors.New(doing + " TCP needs --tls-cert, --tls-key and --tls-ca, or an explicit --insecure")
	}
	return nil, nil
}

// logger writes warnings as plain lines.
func (a *app) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, attr slog.Attr) slog.Attr {
			if attr.Key == slog.TimeKey && len(groups) == 0 {
				return slog.Attr{}
			}
			return attr
		},
	}))
}
