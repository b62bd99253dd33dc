package main

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/vmferry/vmferry/relay"
	"github.com/vmferry/vmferry/relay/relaymetrics"
	"github.com/vmferry/vmferry/transport"
)

// daemonFlags are for a relay that runs all the time.
type daemonFlags struct {
	Metrics string `help:"Where to serve /metrics for Prometheus, and /healthz: tcp:HOST:PORT or unix:PATH. There is no TLS: use a loopback address." placeholder:"ADDRESS"`
	// At once is the default: an interrupted command ends, and a migration that breaks
	// before the switchover leaves the machine running at its source.
	Drain time.Duration `default:"0" help:"How long migrations under way may take to end after SIGTERM or SIGINT; no further ones begin. 0 breaks them at once. A second signal ends the relay at once." placeholder:"TIME"`

	given   net.Listener // from systemd
	metrics net.Listener // nil without --metrics
}

// listenAddress returns the address of the socket that systemd has opened, or else the
// one of --listen.
func (d *daemonFlags) listenAddress(a *app, flag string) (transport.Address, error) {
	given, err := activation.Listeners()
	if err != nil {
		return transport.Address{}, fmt.Errorf("the sockets that systemd has opened: %w", err)
	}
	if len(given) == 0 {
		if flag == "" {
			return transport.Address{}, usagef("missing flags: --listen=ADDRESS")
		}
		return address("listen", flag)
	}
	if len(given) > 1 || given[0] == nil {
		return transport.Address{}, fmt.Errorf("systemd has opened %d sockets (want one ListenStream= of the unit, unix or TCP)", len(given))
	}
	d.given = given[0]
	of := d.given.Addr()
	actual := transport.Address{Network: of.Network(), Addr: of.String()}
	if flag != "" && flag != actual.String() {
		a.logger().Warn("the socket that systemd has opened replaces --listen", "listen", flag, "socket", actual.String())
	}
	return actual, nil
}

// listen returns the socket that systemd has opened, or listens; on --metrics, too. It
// notifies systemd that the relay is ready.
func (d *daemonFlags) listen(a *app, addr transport.Address) (net.Listener, error) {
	if err := d.listenMetrics(a); err != nil {
		return nil, err
	}
	ln := d.given
	if ln == nil {
		var err error
		if ln, err = addr.Listen(a.ctx); err != nil {
			return nil, err
		}
	}
	notify(a, daemon.SdNotifyReady)
	context.AfterFunc(a.ctx, func() { notify(a, daemon.SdNotifyStopping) })
	return ln, nil
}

// notify sends systemd the state of the process, if systemd wants notifications.
func notify(a *app, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		a.logger().Warn("systemd cannot be notified", "state", state, "error", err)
	}
}

// serve serves a relay and its metrics. After a signal the migrations under way may end
// within --drain.
func (d *daemonFlags) serve(a *app, r *relay.Relay, serve func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(a.ctx))
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel(nil)
	if d.metrics != nil {
		others.Go(func() {
			if err := relaymetrics.Serve(ctx, d.metrics, r.Stats, a.logger()); err != nil {
				a.logger().Warn("the metrics are not served any more", "error", err)
			}
		})
	}
	others.Go(func() {
		select {
		case <-a.ctx.Done():
			d.drain(ctx, a, r)
			cancel(context.Cause(a.ctx))
		case <-ctx.Done():
		}
	})
	return serve(ctx)
}

// drain returns after --drain, or when ctx ends because no migration is left.
func (d *daemonFlags) drain(ctx context.Context, a *app, r *relay.Relay) {
	if d.Drain <= 0 {
		return
	}
	if open := r.Stats().Total.Open; open > 0 {
		a.logger().Info("migrations under way may end; a second signal ends the relay at once", "connections", open, "within", d.Drain.String())
	}
	r.Drain()
	select {
	case <-time.After(d.Drain):
		a.logger().Warn("migrations have not ended within --drain, their connections are broken", "connections", r.Stats().Total.Open)
	case <-ctx.Done():
	}
}

// listenMetrics listens on --metrics.
func (d *daemonFlags) listenMetrics(a *app) error {
	if d.Metrics == "" {
		return nil
	}
	addr, err := address("metrics", d.Metrics)
	if err != nil {
		return err
	}
	if d.metrics, err = addr.Listen(a.ctx); err != nil {
		return fmt.Errorf("--metrics: %w", err)
	}
	if tcp, ok := d.metrics.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		a.logger().Warn("--metrics: everyone who reaches the address can see which machines move (use a loopback address or unix:PATH)", "address", addr.String())
	}
	return nil
}
