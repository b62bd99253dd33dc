package main

import (
	"context"
	"net"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/pagecodec"
	"github.com/vmferry/vmferry/relay/transcode"
	"github.com/vmferry/vmferry/transport"
)

// transcodeFlags select the form of relay between two QEMUs that use different methods.
type transcodeFlags struct {
	In    string `help:"Method of the source's QEMU: none, zlib, zstd, qpl, uadk or qatzip. With --in and --out there is no link: this relay stands between two QEMUs, decodes what the one sends and encodes it for the other." placeholder:"METHOD"`
	Out   string `help:"Method of the destination's QEMU." placeholder:"METHOD"`
	Level int    `default:"0" help:"Compression level of --out: zlib and qatzip have 1 to 9, zstd 1 to 20, qpl and uadk 1 and 2; 0 is the method's default." placeholder:"N"`
}

// methods gives the methods and the level.
func (f *transcodeFlags) methods() (cfg transcode.Config, err error) {
	if cfg.In, err = multifd.MethodNamed(f.In); err != nil {
		return cfg, usagef("--in: %w", err)
	}
	if cfg.Out, err = multifd.MethodNamed(f.Out); err != nil {
		return cfg, usagef("--out: %w", err)
	}
	cfg.Level = f.Level
	return cfg, levelFlag(multifd.CheckLevel(cfg.Out, f.Level))
}

// transcode relays between two QEMUs.
func (c *relayCmd) transcode(a *app, listen, connect transport.Address) error {
	if c.In == "" || c.Out == "" {
		return usagef("--in, --out and --level go together: give --in and --out, the methods of both QEMUs")
	}
	if c.Link != "" {
		return usagef("--link does not go with --in and --out, which are for a relay between two QEMUs, without a link")
	}
	if c.Metrics != "" || c.Drain != 0 {
		return usagef("--metrics and --drain do not go with --in and --out")
	}
	cfg, err := c.methods()
	if err != nil {
		return err
	}
	if err := c.checkNoTLS(listen, connect); err != nil {
		return err
	}
	method := cfg.Out
	if cfg.In == multifd.QPL {
		method = cfg.In
	}
	if method != multifd.QPL && c.IAA == string(pagecodec.Require) {
		return usagef("--iaa require goes with --in qpl or --out qpl: nothing else is work for it")
	}
	if cfg.Accelerator, err = c.accelerator(a, method, ""); err != nil {
		return err
	}
	defer cfg.Accelerator.Close()
	if err := cfg.Accelerator.Ready(); err != nil {
		return err
	}
	defer c.report(a, cfg.Accelerator)
	c.warn(a, listen)
	c.warn(a, connect)
	cfg.Logger = a.logger()
	ln, err := c.listen(a, listen)
	if err != nil {
		return err
	}
	return transcode.Serve(a.ctx, ln, func(ctx context.Context) (net.Conn, error) { return connect.Dial(ctx, nil) }, cfg)
}

// checkNoTLS returns an error unless both sides can be reached without TLS. A QEMU is at
// each side, and its own TLS ends at the other QEMU.
func (c *relayCmd) checkNoTLS(listen, connect transport.Address) error {
	if c.TLSCert != "" || c.TLSKey != "" || c.TLSCA != "" || len(c.TLSPeer) > 0 {
		return usagef("--tls-... does not go with --in and --out: a QEMU is at each side, without TLS (leave the flags out)")
	}
	if !c.Insecure && (listen.Network == "tcp" || connect.Network == "tcp") {
		return usagef("TCP with --in and --out has no TLS: it needs an explicit --insecure (or use unix:PATH)")
	}
	return nil
}
