package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"time"

	"github.com/vmferry/vmferry/bench/harness"
	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/qmp"
)

// way is one way to save a machine to path and to restore it from there.
type way struct {
	name, title string
	save        func(ctx context.Context, m *machine, path string) (cost, error)
	restore     func(ctx context.Context, m *machine, dst *qemutest.VM, path string) (cost, error)
}

// cost is what a save or a restore took besides its time.
type cost struct {
	paused time.Duration
	cpu    time.Duration // of vmferry
}

// ways returns mapped-ram, which the others are compared with, and the ways with the names;
// all ways without a name.
func (b *bench) ways(names []string) ([]way, error) {
	mapped := map[string]bool{"mapped-ram": true, "multifd": true}
	all := []way{
		qemuWay("mapped-ram", "QEMU file: mapped-ram multifd", mapped, "file:%s", "file:%s"),
		qemuWay("zstd", "QEMU exec:zstd -1", nil, "exec:zstd -1 -q -c > %s", "exec:zstd -q -dc %s"),
		qemuWay("file", "QEMU file:", nil, "file:%s", "file:%s"),
		b.vmferryWay("fast", "fast"),
		b.vmferryWay("dense", "dense"),
		b.vmferryWay("store-zstd", "zstd"),
		b.vmferryWay("raw", "raw"),
	}
	for _, name := range names {
		if name != "none" && !slices.ContainsFunc(all, func(w way) bool { return w.name == name }) {
			return nil, fmt.Errorf("unknown way %q", name)
		}
	}
	if len(names) == 0 {
		return all, nil
	}
	chosen := all[:1]
	for _, w := range all[1:] {
		if slices.Contains(names, w.name) {
			chosen = append(chosen, w)
		}
	}
	return chosen, nil
}

// qemuWay saves and restores with QEMU alone.
func qemuWay(name, title string, caps map[string]bool, out, in string) way {
	setUp := func(ctx context.Context, c *qmp.Client) error {
		all := map[string]bool{"mapped-ram": false, "multifd": false}
		for k, v := range caps {
			all[k] = v
		}
		return c.SetMigrateCapabilities(ctx, all)
	}
	return way{
		name: name, title: title,
		save: func(ctx context.Context, m *machine, path string) (cost, error) {
			c, err := qmp.Dial(ctx, m.source.QMPPath())
			if err != nil {
				return cost{}, err
			}
			defer c.Close()
			if err := setUp(ctx, c); err != nil {
				return cost{}, err
			}
			if err := c.SetMigrateParameters(ctx, qmp.MigrateParameters{MaxBandwidth: new(uint64(1 << 40)), MultifdChannels: new(2)}); err != nil {
				return cost{}, err
			}
			if err := c.Migrate(ctx, fmt.Sprintf(out, path)); err != nil {
				return cost{}, err
			}
			end, err := harness.AwaitMigration(ctx, c, 2*time.Millisecond, 4*time.Minute)
			if err != nil {
				return cost{}, err
			}
			var paused time.Duration
			if m.runs {
				stopped := time.Now()
				if err := c.Cont(ctx); err != nil {
					return cost{}, err
				}
				paused = end.Downtime.Duration() + time.Since(stopped)
			}
			return cost{paused: paused}, c.SetMigrateCapabilities(ctx, map[string]bool{"mapped-ram": false, "multifd": false})
		},
		restore: func(ctx context.Context, m *machine, dst *qemutest.VM, path string) (cost, error) {
			c, err := qmp.Dial(ctx, dst.QMPPath())
			if err != nil {
				return cost{}, err
			}
			defer c.Close()
			if err := setUp(ctx, c); err != nil {
				return cost{}, err
			}
			if err := c.MigrateIncoming(ctx, fmt.Sprintf(in, path)); err != nil {
				return cost{}, err
			}
			if _, err := harness.AwaitMigration(ctx, c, 2*time.Millisecond, 4*time.Minute); err != nil {
				return cost{}, err
			}
			return cost{}, m.awaitRestored(ctx, c)
		},
	}
}

// awaitRestored waits until QEMU has left the state of an incoming migration, and the
// machine runs if it ran.
func (m *machine) awaitRestored(ctx context.Context, c *qmp.Client) error {
	for {
		s, err := c.QueryStatus(ctx)
		if err != nil || s.Status == qmp.StateRunning || !m.runs && s.Status != qmp.StateInmigrate {
			return err
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// vmferryWay runs vmferry. The time includes the start of its process and the flush to disk.
func (b *bench) vmferryWay(name, store string) way {
	return way{
		name: name, title: "vmferry --store " + store,
		save: func(ctx context.Context, m *machine, path string) (cost, error) {
			return b.call(ctx, "save", "--json", "--qmp", m.source.QMPPath(), "--store", store, path)
		},
		restore: func(ctx context.Context, _ *machine, dst *qemutest.VM, path string) (cost, error) {
			return b.call(ctx, "restore", "--json", "--qmp", dst.QMPPath(), path)
		},
	}
}

func (b *bench) call(ctx context.Context, args ...string) (cost, error) {
	var line struct {
		Result *struct {
			PausedNS time.Duration `json:"paused_ns"`
		} `json:"result"`
	}
	cmd := exec.CommandContext(ctx, b.vmferry, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return cost{}, fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	for text := range bytes.Lines(stdout.Bytes()) {
		if err := json.Unmarshal(text, &line); err != nil {
			return cost{}, err
		}
	}
	if line.Result == nil {
		return cost{}, fmt.Errorf("vmferry %s printed no result", args[0])
	}
	return cost{line.Result.PausedNS, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}, nil
}
