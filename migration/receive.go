package migration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/internal/cause"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// Receive takes one migration from a listener, which it closes. A source that gives up
// while it connects may try again: its connections that are closed are forgotten, if
// they are syscall.Conns (those of package net are).
func Receive(ctx context.Context, ln net.Listener, cfg ReceiveConfig) (*Received, error) {
	if err := cfg.check(ln); err != nil {
		ln.Close()
		return nil, err
	}
	acc := transport.NewAcceptor(ctx, ln, cfg.connections())
	defer acc.Stop()
	conns, err := acc.Gather(ctx)
	if err != nil {
		return nil, err
	}
	defer conns.Close()
	in := &Inbound{cfg: &cfg, acc: acc, conns: conns, rendezvous: newRendezvous(cfg.Channels), acceptResult: make(chan error, 1)}
	return in.receive(ctx)
}

// check fills in defaults, and refuses a configuration that cannot work, before a source
// is let in.
func (c *ReceiveConfig) check(ln net.Listener) (err error) {
	if c.Wire, err = c.Wire.WithDefaults(); err != nil {
		return err
	}
	if c.Handover != nil && !transport.CanReopen(ln) {
		return fmt.Errorf("receiving with a handover needs a listener that has SetDeadline, as those of package net have; %T has not (TLS goes into ReceiveConfig)", ln)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Method == multifd.QPL {
		// Before the source is let in, and so before a byte is sent.
		if err := c.Accelerator.Ready(); err != nil {
			return fmt.Errorf("multifd channel 0: setting up to receive %s: %w", c.Method.Name(), err)
		}
	}
	return nil
}

// connections is the part of the configuration that concerns the transport.
func (c *ReceiveConfig) connections() *transport.AcceptConfig {
	return &transport.AcceptConfig{
		Channels: c.Channels, UUID: c.UUID, TLS: c.TLS, ConnectTimeout: c.ConnectTimeout, LinkTimeout: c.LinkTimeout,
		StallTimeout: c.StallTimeout, Logger: c.Logger, IdentifyWithin: c.identifyWithin,
	}
}

// receive reads all channels side by side until the migration has ended.
func (in *Inbound) receive(ctx context.Context) (*Received, error) {
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, in.conns.Close) // ends all reading
	defer stop()
	in.ctx = ctx
	in.watch = transport.StartWatch(false, in.cfg.StallTimeout, in.cfg.LinkTimeout, in.conns.Links...)
	defer in.watch.Stop()
	var begin []func()
	for _, l := range in.conns.Links[1:] {
		begin = append(begin, l.WaitForOthers()) // until its goroutine reads
	}
	states := newStateBudget(in.cfg.Main.MaxDevices)
	if err := in.openMain(states); err != nil {
		return nil, cause.Of(ctx, err, nil, "")
	}
	defer in.unregister()
	defer in.closeChannels()
	if err := in.openChannels(states); err != nil {
		return nil, err
	}
	ends := make([]error, 1+len(in.channels))
	for i, c := range in.channels {
		group.Go(func() error {
			begin[i]()
			defer func() { c.link.WaitForOthers() }() // the channel has ended
			ends[1+i] = in.readChannel(c)
			return in.unlessDecided(ends[1+i])
		})
	}
	group.Go(func() error {
		err := in.acc.RefuseMore(ctx, in.conns.UUID)
		in.acceptResult <- err
		return err
	})
	group.Go(func() error {
		defer func() { in.conns.Links[0].WaitForOthers() }()
		ends[0] = in.runPhases()
		return ends[0]
	})
	err := group.Wait()
	if errors.Is(err, transport.ErrStalled) {
		return nil, stallError(err, ends)
	}
	if err != nil {
		return nil, cause.Of(ctx, err, nil, "")
	}
	return in.received, nil
}

// openMain reads the head of the main channel.
func (in *Inbound) openMain(states *stateBudget) error {
	in.main = vmstate.NewDestination(in.conns.Main, in.conns.Main, destinationOptions(in.cfg, states))
	head, err := in.main.ReadHead()
	if err != nil {
		return err
	}
	if head.HasUUID && head.UUID != in.conns.UUID {
		return fmt.Errorf("%w: the main channel has the uuid %x, the others %x", transport.ErrChannels, head.UUID, in.conns.UUID)
	}
	return nil
}

// openChannels readies the method for each multifd channel.
func (in *Inbound) openChannels(states *stateBudget) error {
	size := in.main.Configuration().PageSize()
	for id, conn := range in.conns.Channels {
		r, err := multifd.NewReceiver(conn, in.cfg.Method, multifd.ChannelConfig{Channel: id, PageSize: size, Accelerator: in.cfg.Accelerator, StateBudget: states.take})
		if err != nil {
			return err
		}
		in.channels = append(in.channels, &channel{id: id, recv: r, link: in.conns.Links[id+1]})
	}
	return nil
}
