package main

import (
	"context"
	"net"

	"github.com/vmferry/vmferry/relay"
	"github.com/vmferry/vmferry/transport"
)

type relayCmd struct {
	Listen         string `help:"Where to listen: unix:PATH or tcp:HOST:PORT. A socket that systemd has opened replaces it." placeholder:"ADDRESS"`
	Connect        string `required:"" help:"Where to connect to for each accepted connection: unix:PATH or tcp:HOST:PORT." placeholder:"ADDRESS"`
	Link           string `default:"" enum:",source,destination" help:"The side of this relay in a pair: source, the default, accepts from a QEMU and dials the link; destination accepts the link and dials a QEMU." placeholder:"SIDE"`
	relayFlags     `embed:""`
	CacheShared    bool     `help:"Let all migrations share one cache. The owner of one machine can then find out which pages the others have."`
	Bandwidth      byteSize `default:"0" help:"Most bytes per second that all links together send, such as 100MiB; 0 is no bound." placeholder:"SIZE"`
	linkFlags      `embed:""`
	daemonFlags    `embed:""`
	tlsFlags       `embed:""`
	transcodeFlags `embed:""`
}

func (c *relayCmd) Run(a *app) error {
	listen, err := c.listenAddress(a, c.Listen)
	if err != nil {
		return err
	}
	connect, err := address("connect", c.Connect)
	if err != nil {
		return err
	}
	if c.In != "" || c.Out != "" || c.Level != 0 {
		return c.transcode(a, listen, connect)
	}
	secured := connect
	if c.Link == "destination" {
		secured = listen
	}
	secure, err := c.config(secured, c.Link == "destination")
	if err != nil {
		return err
	}
	secure = transport.RequireTLS13(secure)
	if err := c.checkLinkTimeout(); err != nil {
		return err
	}
	c.warn(a, secured)
	cfg, err := c.relayConfig(a)
	if err != nil {
		return err
	}
	defer cfg.Accelerator.Close()
	cfg.CacheShared, cfg.Bandwidth, cfg.LinkTimeout = c.CacheShared, uint64(c.Bandwidth), c.LinkTimeout
	r, err := relay.New(cfg)
	if err != nil {
		return err
	}
	defer r.Close()
	lowerPriority()
	ln, err := c.listen(a, listen)
	if err != nil {
		return err
	}
	return c.serve(a, r, func(ctx context.Context) error {
		if c.Link == "destination" {
			return r.ServeDestination(ctx, ln, secure, func(ctx context.Context) (net.Conn, error) { return connect.Dial(ctx, nil) })
		}
		return r.ServeSource(ctx, ln, func(ctx context.Context) (net.Conn, error) { return connect.Dial(ctx, secure) })
	})
}
