package main

import (
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
)

// wireFlags say how pages go over the wire.
type wireFlags struct {
	Channels    int    `default:"2" help:"Multifd channels; the same on both sides." placeholder:"N"`
	Compression string `default:"none" enum:"none,zlib,zstd,qpl,uadk,qatzip" help:"Method on the wire: ${enum}; the same on both sides."`
	Level       int    `default:"0" help:"Compression level of the sending side: zlib and qatzip have 1 to 9, zstd 1 to 20, qpl and uadk 1 and 2; 0 is the method's default." placeholder:"N"`
}

func (f *wireFlags) method() (multifd.Method, error) {
	if f.Channels < 1 || f.Channels > multifd.MaxChannels {
		return nil, usagef("--channels: want 1 to %d", multifd.MaxChannels)
	}
	m, err := multifd.MethodNamed(f.Compression)
	return m, asUsage(err)
}

// sending is method for a command that compresses.
func (f *wireFlags) sending() (multifd.Method, error) {
	m, err := f.method()
	if err != nil {
		return nil, err
	}
	return m, levelFlag(multifd.CheckLevel(m, f.Level))
}

// receiving is method for a command that only decompresses.
func (f *wireFlags) receiving() (multifd.Method, error) {
	if f.Level != 0 {
		return nil, usagef("--level %d: --level is the source's: every level of a method is received (leave the flag out)", f.Level)
	}
	return f.method()
}

// levelFlag names the flag in an error about a level.
func levelFlag(err error) error {
	if err == nil {
		return nil
	}
	return usagef("--level: %w", err)
}

// address reads the value of the flag with that name.
func address(flag, text string) (transport.Address, error) {
	addr, err := transport.ParseAddress(text)
	if err != nil {
		return addr, usagef("--%s: %w", flag, err)
	}
	return addr, nil
}

// tlsFlags say how a connection over a network is kept private.
type tlsFlags struct {
	TLSCert  string   `name:"tls-cert" help:"Certificate of this side, PEM." placeholder:"FILE"`
	TLSKey   string   `name:"tls-key" help:"Key of the certificate, PEM." placeholder:"FILE"`
	TLSCA    string   `name:"tls-ca" help:"Authority that must have signed the other side's certificate, PEM." placeholder:"FILE"`
	TLSPeer  []string `name:"tls-peer" sep:"none" help:"Name that the other side's certificate must have: a DNS name, an IP address or a URI (SPIFFE) among its subject alternative names. Repeat the flag for several names. Without it the listening side accepts every certificate of the authority." placeholder:"NAME"`
	Insecure bool     `help:"Use TCP without TLS. Anyone who can connect can read or replace the machine's memory."`
}

// config gives the configuration for an address, nil for none.
func (f *tlsFlags) config(addr transport.Address, server bool) (*tls.Config, error) {
	files := transport.TLSFiles{Cert: f.TLSCert, Key: f.TLSKey, CA: f.TLSCA}
	if files != (transport.TLSFiles{}) {
		if f.Insecure {
			return nil, usagef("--insecure and --tls-... say opposite things: leave one of them out")
		}
		for _, flag := range []struct{ name, value string }{{"--tls-cert", f.TLSCert}, {"--tls-key", f.TLSKey}, {"--tls-ca", f.TLSCA}} {
			if flag.value == "" {
				return nil, usagef("TLS needs --tls-cert, --tls-key and --tls-ca: %s is missing", flag.name)
			}
		}
		cfg, err := files.Load()
		if err != nil {
			return nil, err
		}
		return transport.RequirePeer(cfg, f.TLSPeer...), nil
	}
	if len(f.TLSPeer) > 0 {
		return nil, usagef("--tls-peer looks at the other side's certificate: it needs --tls-cert, --tls-key and --tls-ca")
	}
	if addr.Network == "tcp" && !f.Insecure {
		doing := "connecting over"
		if server {
			doing = "listening on"
		}
		return nil, usagef("%s TCP needs --tls-cert, --tls-key and --tls-ca, or an explicit --insecure", doing)
	}
	return nil, nil
}

// warn says what a connection without TLS means.
func (f *tlsFlags) warn(a *app, addr transport.Address) {
	if f.Insecure && addr.Network == "tcp" {
		a.logger().Warn("--insecure: the migration goes over TCP without TLS; anyone who can connect or listen in can read or replace the machine's memory", "address", addr.String())
	}
}

// stallFlags bound the waits for the other side.
type stallFlags struct {
	StallTimeout time.Duration `name:"stall-timeout" default:"2m" help:"How long no byte may move on any connection while this side waits for the other; 0 waits forever." placeholder:"TIME"`
}

// linkFlags bound the silence of the other vmferry.
type linkFlags struct {
	LinkTimeout time.Duration `default:"30s" help:"Longest time without a byte from the other vmferry." placeholder:"TIME"`
}

func (f *linkFlags) checkLinkTimeout() error {
	if f.LinkTimeout <= 0 {
		return usagef("--link-timeout: want more than 0")
	}
	return nil
}

// stallTimeout is what package migration makes of it.
func (f *stallFlags) stallTimeout() time.Duration {
	if f.StallTimeout <= 0 {
		return -1
	}
	return f.StallTimeout
}

// logger writes warnings as plain lines, and with --verbose every detail.
func (a *app) logger() *slog.Logger {
	level := slog.LevelInfo
	if a.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, attr slog.Attr) slog.Attr {
			if attr.Key == slog.TimeKey && len(groups) == 0 {
				return slog.Attr{}
			}
			return attr
		},
	}))
}
