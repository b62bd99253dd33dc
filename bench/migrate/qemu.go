package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/internal/slowlink"
	"github.com/vmferry/vmferry/qmp"
)

// The guest's memory, and how it is migrated.
const (
	memoryMiB   = 1024
	channels    = 2
	downtimeMS  = 300     // QEMU's default
	noBandwidth = 1 << 40 // bytes a second

	bootTime     = 5 * time.Minute
	goOnTime     = time.Minute
	warmUp       = 500 * time.Millisecond
	pollInterval = 10 * time.Millisecond
)

// machine is a QEMU with its monitor.
type machine struct {
	vm      *qemutest.VM
	control *qmp.Client
	vcpu    int // the thread that runs the guest
}

// busyGuest is the workload of the busy guest: it writes more than the slowest link carries.
var busyGuest = qemutest.Config{FillMiB: 80, WorkMiB: 64, RateMiBps: 20, PartPercent: 70}

// guestOf returns the workload of the guest that is migrated over a link.
func (b *bench) guestOf(l link) qemutest.Config {
	if l.busy {
		return busyGuest
	}
	return b.guest
}

func (b *bench) startMachine(ctx context.Context, l link, e slowlink.End) (m *machine, err error) {
	endpoint := [2]string{slowlink.Source: "client", slowlink.Destination: "server"}[e]
	cfg := b.guestOf(l)
	cfg.MemoryMiB, cfg.Incoming, cfg.Dir = memoryMiB, e == slowlink.Destination, b.dir
	cfg.Launcher = []string{"ip", "netns", "exec", b.wire.Namespace(e)}
	cfg.ExtraArgs = []string{"-object", fmt.Sprintf("tls-creds-x509,id=%s,dir=%s,endpoint=%s,verify-peer=on", credentials, b.certificates(e), endpoint)}
	vm, err := qemutest.Launch(ctx, cfg)
	if err != nil {
		return nil, err
	}
	m = &machine{vm: vm}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if m.control, err = qmp.Dial(ctx, vm.QMPPath()); err != nil {
		return nil, err
	}
	m.vcpu, err = vcpu(ctx, m.control)
	return m, err
}

// credentials is the name of QEMU's TLS credentials.
const credentials = "tls0"

// vcpu returns the thread that runs the guest.
func vcpu(ctx context.Context, c *qmp.Client) (int, error) {
	var cpus []struct {
		Thread int `json:"thread-id"`
	}
	if err := c.Execute(ctx, "query-cpus-fast", nil, &cpus); err != nil {
		return 0, err
	}
	if len(cpus) != 1 {
		return 0, fmt.Errorf("QEMU has %d virtual processors, want 1", len(cpus))
	}
	return cpus[0].Thread, nil
}

func (m *machine) close() {
	if m.control != nil {
		m.control.Close()
	}
	m.vm.Close()
}

// setUp sets all settings that a way of this benchmark changes.
func (m *machine) setUp(ctx context.Context, w way) error {
	err := m.control.SetMigrateCapabilities(ctx, map[string]bool{"multifd": true, "return-path": true, "postcopy-ram": false})
	if err != nil {
		return err
	}
	tls := ""
	if w.tls {
		tls = credentials
	}
	return m.control.SetMigrateParameters(ctx, qmp.MigrateParameters{
		MultifdChannels: new(channels), MultifdCompression: &w.method, MultifdZstdLevel: new(1), MultifdZlibLevel: new(1),
		MaxBandwidth: new(uint64(noBandwidth)), DowntimeLimit: new(qmp.Milliseconds(downtimeMS)), TLSCreds: &tls,
	})
}

// startSource boots a guest and stops it.
func (b *bench) startSource(ctx context.Context, l link) (*machine, error) {
	m, err := b.startMachine(ctx, l, slowlink.Source)
	if err != nil {
		return nil, err
	}
	booting, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	if err := m.vm.WaitReady(booting); err != nil {
		m.close()
		return nil, err
	}
	if err := m.control.Stop(ctx); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// goOn lets the guest run, and checks that it does.
func (m *machine) goOn(ctx context.Context) error {
	return errors.Join(m.control.Cont(ctx), m.vm.WaitProgress(ctx, goOnTime))
}
