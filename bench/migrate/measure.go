package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmferry/vmferry/bench/harness"
	"github.com/vmferry/vmferry/internal/slowlink"
)

// figures are the measurements of one migration.
type figures struct {
	total, downtime time.Duration // QEMU's own
	rounds          uint64
	sent            uint64           // bytes on the link, in both directions
	process         [2]time.Duration // processor time of the QEMUs, by end
	guest           [2]time.Duration // of it, of the threads that run the guest
	relay           [2]time.Duration
	writes          float64 // pages that the guest rewrote a second
	diverged        bool    // the migration was given up
}

func (f figures) String() string {
	if f.diverged {
		return "given up"
	}
	return fmt.Sprintf("%.2f s, downtime %d ms, %d rounds, %.1f MB, CPU %.2f s of QEMU, %.2f s of the relays, %.0f pages/s",
		f.total.Seconds(), f.downtime.Milliseconds(), f.rounds, megabytes(f), qemuCPU(f), relayCPU(f), f.writes)
}

// Values of figures, for medians.
func seconds(f figures) float64    { return f.total.Seconds() }
func downtime(f figures) float64   { return float64(f.downtime.Milliseconds()) }
func rounds(f figures) float64     { return float64(f.rounds) }
func megabytes(f figures) float64  { return float64(f.sent) / 1e6 }
func writes(f figures) float64     { return f.writes }
func relayCPU(f figures) float64   { return (f.relay[0] + f.relay[1]).Seconds() }
func processCPU(f figures) float64 { return (f.process[0] + f.process[1]).Seconds() }

// qemuCPU is the processor time of both QEMUs without that of the guest.
func qemuCPU(f figures) float64 { return processCPU(f) - (f.guest[0] + f.guest[1]).Seconds() }

func qemuSourceCPU(f figures) float64      { return (f.process[0] - f.guest[0]).Seconds() }
func qemuDestinationCPU(f figures) float64 { return (f.process[1] - f.guest[1]).Seconds() }

func (f *figures) ok() bool { return !f.diverged }

// measure migrates a guest once, checks that it runs at the destination, and leaves the
// source stopped.
func (b *bench) measure(ctx context.Context, l link, w way) (f figures, err error) {
	from := b.source[l.busy]
	to, err := b.startMachine(ctx, l, slowlink.Destination)
	if err != nil {
		return f, err
	}
	defer to.close()
	port := qemuPort
	if w.relay != nil {
		port = relayPort
	}
	address, stop, err := b.reach(l, port)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	r := route{from: from, to: to, connect: "tcp:" + address, listen: fmt.Sprintf("tcp:%s:%d", slowlink.Destination.IP(), qemuPort)}
	if w.relay != nil {
		if r.pair, err = b.startPair(ctx, w.relay, address); err != nil {
			return f, err
		}
		defer r.pair.stop()
		r.connect, r.listen = r.pair.connect, r.pair.listen
	}
	if err := errors.Join(from.setUp(ctx, w), to.setUp(ctx, w)); err != nil {
		return f, err
	}
	// QEMU migrates a guest again only after the guest has run.
	if err := from.goOn(ctx); err != nil {
		return f, err
	}
	// The other source is stopped: so is this one after each migration.
	defer func() { err = errors.Join(err, from.control.Stop(ctx)) }()
	time.Sleep(warmUp)
	if err := to.control.MigrateIncoming(ctx, r.listen); err != nil {
		return f, err
	}
	if f, err = b.migrate(ctx, l, r); err != nil {
		if r.pair != nil {
			r.pair.stop()
			err = fmt.Errorf("%w\n%s", err, r.pair.logs())
		}
		return f, fmt.Errorf("%w\ndestination's QEMU: %s", err, to.vm.Stderr())
	}
	if f.diverged {
		return f, nil
	}
	return f, errors.Join(to.vm.WaitProgress(ctx, goOnTime), to.vm.Corrupt())
}

// route is how the source's QEMU reaches the destination's.
type route struct {
	from, to        *machine
	connect, listen string
	pair            *pair // nil without relays
}

// reach returns the address at which the source reaches a port of the destination: that of a
// proxy, if the link has a delay. stop ends the proxy.
func (b *bench) reach(l link, port int) (address string, stop func() error, err error) {
	target := fmt.Sprintf("%s:%d", slowlink.Destination.IP(), port)
	if b.delay == 0 {
		return target, func() error { return nil }, nil
	}
	return b.wire.StartProxy(slowlink.Proxy{Delay: b.delay, Window: slowlink.WindowOf(l.bits, b.delay)}, target)
}

// migrate measures the migration from the command to its end.
func (b *bench) migrate(ctx context.Context, l link, r route) (f figures, err error) {
	if _, err := harness.RunAlone(ctx, harness.Job{Side: harness.Touching, MemoryMiB: memoryMiB}); err != nil {
		return f, err
	}
	before, err := b.take(r)
	if err != nil {
		return f, err
	}
	from := r.from.control
	if err := from.Migrate(ctx, r.connect); err != nil {
		return f, err
	}
	m, err := harness.AwaitMigration(ctx, from, pollInterval, timeLimit(l))
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		f.diverged = true
		return f, harness.CancelMigration(ctx, from, pollInterval)
	}
	if err != nil {
		return f, err
	}
	if _, err := harness.AwaitMigration(ctx, r.to.control, pollInterval, timeLimit(l)); err != nil {
		return f, fmt.Errorf("destination: %w", err)
	}
	after, err := b.take(r)
	if err != nil {
		return f, err
	}
	f = after.since(before)
	f.total, f.downtime = m.TotalTime.Duration(), m.Downtime.Duration()
	if m.RAM == nil {
		return f, errors.New("query-migrate returned no figures of memory")
	}
	f.rounds = m.RAM.DirtySyncCount
	return f, nil
}

// timeLimit bounds a migration. One that takes longer does not converge.
func timeLimit(l link) time.Duration {
	if l.slow {
		return 3 * time.Minute
	}
	return time.Minute
}

// counters are all counters at one time.
type counters struct {
	sent                  uint64
	process, guest, relay [2]time.Duration
	written               int // pages that the guest has rewritten
	writtenAt             time.Time
}

func (b *bench) take(r route) (c counters, err error) {
	var errs []error
	for e, m := range []*machine{r.from, r.to} {
		sent, err1 := b.wire.Sent(slowlink.End(e))
		u, err2 := harness.UsageOf(m.vm.Pid())
		guest, err3 := harness.ThreadCPU(m.vm.Pid(), m.vcpu)
		c.sent += sent
		c.process[e], c.guest[e] = u.CPU, guest
		errs = append(errs, err1, err2, err3)
	}
	if r.pair != nil {
		c.relay, err = r.pair.cpu()
	}
	progress, at := r.from.vm.Progress()
	c.written, c.writtenAt = progress.Pages, at
	return c, errors.Join(append(errs, err)...)
}

func (c *counters) since(before counters) (f figures) {
	f.sent = c.sent - before.sent
	for e := range 2 {
		f.process[e] = c.process[e] - before.process[e]
		f.guest[e] = c.guest[e] - before.guest[e]
		f.relay[e] = c.relay[e] - before.relay[e]
	}
	if d := c.writtenAt.Sub(before.writtenAt); d > 0 {
		f.writes = float64(c.written-before.written) / d.Seconds()
	}
	return f
}
