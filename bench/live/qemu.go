package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vmferry/vmferry/bench/harness"
	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/qmp"
)

// qemu is a QEMU whose guest is migrated several times. It is stopped between the
// migrations.
type qemu struct {
	cfg      qemutest.Config
	channels int
	vm       *qemutest.VM
	control  *qmp.Client
	dataMiB  int // of memory that is not zero
}

// Timeouts and limits for QEMU.
const (
	bootTime     = 5 * time.Minute
	migrateTime  = time.Minute
	goOnTime     = 20 * time.Second
	unlimited    = 1 << 40 // bytes a second
	pollInterval = 10 * time.Millisecond
)

func newQEMU(ctx context.Context, b *bench) (q *qemu, err error) {
	q = &qemu{channels: b.channels, cfg: qemutest.Config{
		MemoryMiB: b.memoryMiB, FillMiB: dataOf(b.memoryMiB) - workMiB, WorkMiB: workMiB, RateMiBps: rateMiBps,
	}}
	if q.vm, err = qemutest.Launch(ctx, q.cfg); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			q.vm.Close()
		}
	}()
	booting, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	if err := q.vm.WaitReady(booting); err != nil {
		return nil, err
	}
	if q.control, err = qmp.Dial(ctx, q.vm.QMPPath()); err != nil {
		return nil, err
	}
	// A migration shows how much of the memory is not zero.
	f, err := q.migrate(ctx, "none", true)
	q.dataMiB = int(f.data >> 20)
	return q, err
}

func (q *qemu) close() {
	q.control.Close()
	q.vm.Close()
}

// migrate migrates the guest to a new QEMU, checks that the guest runs there, and leaves the
// source stopped.
func (q *qemu) migrate(ctx context.Context, method string, still bool) (f figures, err error) {
	cfg := q.cfg
	cfg.Incoming = true
	vm, err := qemutest.Launch(ctx, cfg)
	if err != nil {
		return f, err
	}
	defer vm.Close()
	to, err := qmp.Dial(ctx, vm.QMPPath())
	if err != nil {
		return f, err
	}
	defer to.Close()
	uri, err := freeAddress()
	if err != nil {
		return f, err
	}
	for _, c := range []*qmp.Client{to, q.control} {
		if err := q.setUp(ctx, c, method); err != nil {
			return f, err
		}
	}
	// QEMU migrates a guest again only after the guest has run.
	if err := q.control.Cont(ctx); err != nil {
		return f, err
	}
	time.Sleep(harness.WarmUp)
	if still {
		if err := q.control.Stop(ctx); err != nil {
			return f, err
		}
	}
	if err := to.MigrateIncoming(ctx, uri); err != nil {
		return f, err
	}
	if f, err = q.measure(ctx, vm, to, uri); err != nil || f.diverged {
		return f, err
	}
	if still {
		if err := to.Cont(ctx); err != nil {
			return f, err
		}
	}
	return f, vm.WaitProgress(ctx, goOnTime)
}

func (q *qemu) setUp(ctx context.Context, c *qmp.Client, method string) error {
	if err := c.SetMigrateCapabilities(ctx, map[string]bool{"multifd": true}); err != nil {
		return err
	}
	return c.SetMigrateParameters(ctx, qmp.MigrateParameters{
		MultifdChannels: &q.channels, MultifdCompression: &method, MaxBandwidth: new(uint64(unlimited)),
		DowntimeLimit: new(qmp.Milliseconds(harness.Downtime.Milliseconds())),
	})
}

// measure measures the migration from the command to its end.
func (q *qemu) measure(ctx context.Context, vm *qemutest.VM, to *qmp.Client, uri string) (f figures, err error) {
	if _, err := harness.RunAlone(ctx, harness.Job{Side: harness.Touching, MemoryMiB: q.cfg.MemoryMiB}); err != nil {
		return f, err
	}
	fromBefore, err1 := harness.UsageOf(q.vm.Pid())
	toBefore, err2 := harness.UsageOf(vm.Pid())
	if err := errors.Join(err1, err2, q.control.Migrate(ctx, uri)); err != nil {
		return f, err
	}
	m, err := harness.AwaitMigration(ctx, q.control, pollInterval, migrateTime)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		f.diverged = true
		return f, q.giveUp(ctx)
	}
	if err != nil {
		return f, err
	}
	if _, err := harness.AwaitMigration(ctx, to, pollInterval, migrateTime); err != nil {
		return f, fmt.Errorf("destination: %w", err)
	}
	fromAfter, err1 := harness.UsageOf(q.vm.Pid())
	toAfter, err2 := harness.UsageOf(vm.Pid())
	f.from, f.to = fromAfter.Since(fromBefore), toAfter.Since(toBefore)
	f.total, f.downtime = m.TotalTime.Duration(), m.Downtime.Duration()
	if m.RAM == nil {
		return f, errors.New("query-migrate returned no figures of memory")
	}
	f.rounds, f.bytes, f.data = int(m.RAM.DirtySyncCount), m.RAM.Transferred, m.RAM.NormalBytes
	return f, errors.Join(err1, err2)
}

// giveUp cancels a migration that does not converge.
func (q *qemu) giveUp(ctx context.Context) error {
	return errors.Join(harness.CancelMigration(ctx, q.control, pollInterval), q.control.Stop(ctx))
}

// freeAddress returns a TCP address without a listener.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return "tcp:" + ln.Addr().String(), nil
}
