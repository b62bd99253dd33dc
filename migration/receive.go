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

// Receive receives one migration on ln, and closes ln. A source that aborts while it
// connects may connect again: Receive drops the closed connections, if they are
// syscall.Conns as those of package net are. Errors wrap those of packages transport,
// multifd and vmstate, ErrIncomplete, errors of Sink, Commit and Handover, or the cause
// of ctx.
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

// check sets defaults and rejects an unusable configuration before a source can
// connect.
func (c *ReceiveConfig) check(ln net.Listener) (err error) {
	if c.Wire, err = c.Wire.WithDefaults(); err != nil {
		return err
	}
	if c.Handover != nil && !transport.CanReopen(ln) {
		return fmt.Errorf("migration: a handover needs a listener with the method SetDeadline, as those of package net; %T has none (set TLS in ReceiveConfig)", ln)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Method == multifd.QPL {
		// Fail before the source can connect, so before it sends a byte.
		if err := c.Accelerator.Ready(); err != nil {
			return fmt.Errorf("multifd channel 0: setting up to receive %s: %w", c.Method.Name(), err)
		}
	}
	return nil
}

// connections returns the configuration of the Acceptor.
func (c *ReceiveConfig) connections() *transport.AcceptConfig {
	return &transport.AcceptConfig{
		Channels: c.Channels, UUID: c.UUID, TLS: c.TLS, ConnectTimeout: c.ConnectTimeout, LinkTimeout: c.LinkTimeout,
		StallTimeout: c.StallTimeout, Logger: c.Logger, IdentifyWithin: c.identifyWithin,
	}
}

// receive reads all channels concurrently until the migration has ended.
func (in *Inbound) receive(ctx context.Context) (*Received, error) {
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, in.conns.Close) // ends all reading
	defer stop()
	in.ctx = ctx
	in.watch = transport.StartWatch(false, in.cfg.StallTimeout, in.cfg.LinkTimeout, in.conns.Links...)
	defer in.watch.Stop()
	var begin []func()
	for _, l := range in.conns.Links[1:] {
		begin = append(begin, l.WaitForOthers()) // until the channel's goroutine reads
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
		return fmt.Errorf("%w: the main channel has UUID %x, the multifd channels %x", transport.ErrChannels, head.UUID, in.conns.UUID)
	}
	return nil
}

// openChannels creates the receiver of each multifd channel.
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
