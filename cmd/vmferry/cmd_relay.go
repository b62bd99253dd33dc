package main

import (
	"context"
	"net"

	"github.com/vmferry/vmferry/relay"
)

type relayCmd struct {
	Listen   string `required:"" help:"Where to listen: unix:PATH or tcp:HOST:PORT." placeholder:"ADDRESS"`
	Connect  string `required:"" help:"Where to connect to for each accepted connection: unix:PATH or tcp:HOST:PORT." placeholder:"ADDRESS"`
	Link     string `default:"" enum:",source,destination" help:"The side of this relay in a pair: source, the default, accepts from a QEMU and dials the link; destination accepts the link and dials a QEMU." placeholder:"SIDE"`
	tlsFlags `embed:""`

	transcodeFlags `embed:""`
	iaaFlags       `embed:""`
}

func (c *relayCmd) Run(a *app) error {
	listen, err := address("listen", c.Listen)
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
	r, err := relay.New(relay.Config{Logger: a.logger()})
	if err != nil {
		return err
	}
	defer r.Close()
	ln, err := listen.Listen(a.ctx)
	if err != nil {
		return err
	}
	if c.Link == "destination" {
		return r.ServeDestination(a.ctx, ln, secure, func(ctx context.Context) (net.Conn, error) { return connect.Dial(ctx, nil) })
	}
	return r.ServeSource(a.ctx, ln, func(ctx context.Context) (net.Conn, error) { return connect.Dial(ctx, secure) })
}
