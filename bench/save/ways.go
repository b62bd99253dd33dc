package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/bench/harness"
	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/qmp"
)

// way is one way to save a guest to path and to restore it from there. save returns the time
// for which the guest was paused.
type way struct {
	name    string
	save    func(ctx context.Context, vm *qemutest.VM, path string) (time.Duration, error)
	restore func(ctx context.Context, vm *qemutest.VM, path string) error
}

// ways lists all ways. The ratios in the table compare with the first one, mapped-ram.
func (b *bench) ways() []way {
	mapped := map[string]bool{"mapped-ram": true, "multifd": true}
	return []way{
		qemuWay("QEMU file: mapped-ram multifd", mapped, "file:%s", "file:%s"),
		qemuWay("QEMU exec:zstd -1", nil, "exec:zstd -1 -q -c > %s", "exec:zstd -q -dc %s"),
		qemuWay("QEMU file:", nil, "file:%s", "file:%s"),
		b.vmferryWay("fast"),
		b.vmferryWay("dense"),
		b.vmferryWay("zstd"),
		b.vmferryWay("raw"),
	}
}

// qemuWay saves and restores with QEMU alone.
func qemuWay(name string, caps map[string]bool, out, in string) way {
	setUp := func(ctx context.Context, c *qmp.Client) error {
		all := map[string]bool{"mapped-ram": false, "multifd": false}
		for k, v := range caps {
			all[k] = v
		}
		return c.SetMigrateCapabilities(ctx, all)
	}
	return way{
		name: name,
		save: func(ctx context.Context, vm *qemutest.VM, path string) (time.Duration, error) {
			c, err := qmp.Dial(ctx, vm.QMPPath())
			if err != nil {
				return 0, err
			}
			defer c.Close()
			if err := setUp(ctx, c); err != nil {
				return 0, err
			}
			if err := c.SetMigrateParameters(ctx, qmp.MigrateParameters{MaxBandwidth: new(uint64(1 << 40)), MultifdChannels: new(2)}); err != nil {
				return 0, err
			}
			if err := c.Migrate(ctx, fmt.Sprintf(out, path)); err != nil {
				return 0, err
			}
			m, err := harness.AwaitMigration(ctx, c, 2*time.Millisecond, time.Minute)
			if err != nil {
				return 0, err
			}
			stopped := time.Now()
			if err := c.Cont(ctx); err != nil {
				return 0, err
			}
			paused := m.Downtime.Duration() + time.Since(stopped)
			return paused, c.SetMigrateCapabilities(ctx, map[string]bool{"mapped-ram": false, "multifd": false})
		},
		restore: func(ctx context.Context, vm *qemutest.VM, path string) error {
			c, err := qmp.Dial(ctx, vm.QMPPath())
			if err != nil {
				return err
			}
			defer c.Close()
			if err := setUp(ctx, c); err != nil {
				return err
			}
			if err := c.MigrateIncoming(ctx, fmt.Sprintf(in, path)); err != nil {
				return err
			}
			if _, err := harness.AwaitMigration(ctx, c, 2*time.Millisecond, time.Minute); err != nil {
				return err
			}
			return running(ctx, c)
		},
	}
}

func running(ctx context.Context, c *qmp.Client) error {
	for {
		s, err := c.QueryStatus(ctx)
		if err != nil || s.Status == qmp.StateRunning {
			return err
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// vmferryWay runs vmferry. The time includes the start of its process and the flush to disk.
func (b *bench) vmferryWay(store string) way {
	return way{
		name: "vmferry --store " + store,
		save: func(ctx context.Context, vm *qemutest.VM, path string) (time.Duration, error) {
			out, err := b.call(ctx, "save", "--json", "--qmp", vm.QMPPath(), "--store", store, path)
			return out.PausedNS, err
		},
		restore: func(ctx context.Context, vm *qemutest.VM, path string) error {
			_, err := b.call(ctx, "restore", "--json", "--qmp", vm.QMPPath(), path)
			return err
		},
	}
}

type result struct {
	PausedNS time.Duration `json:"paused_ns"`
}

func (b *bench) call(ctx context.Context, args ...string) (result, error) {
	var line struct {
		Result *result `json:"result"`
	}
	cmd := exec.CommandContext(ctx, b.vmferry, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return result{}, fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	for text := range bytes.Lines(stdout.Bytes()) {
		if err := json.Unmarshal(text, &line); err != nil {
			return result{}, err
		}
	}
	if line.Result == nil {
		return result{}, fmt.Errorf("vmferry %s printed no result", args[0])
	}
	return *line.Result, nil
}

// onDisk sums the blocks of a file, or of all files in a directory.
func onDisk(path string) (n int64, err error) {
	err = filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := os.Stat(path)
		if err == nil {
			n += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	return n, err
}
