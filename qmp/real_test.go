//go:build realqemu

package qmp_test

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/qmp"
)

// Each helper is understood by real QEMUs, and their answers by the helpers.
func TestRealQEMU(t *testing.T) {
	for _, version := range qemutest.Versions() {
		t.Run(version, func(t *testing.T) {
			memory := filepath.Join(t.TempDir(), "memory")
			vm := qemutest.Start(t, qemutest.Config{Version: version, MemFile: memory, Prealloc: true, MemoryMiB: 128,
				ExtraArgs: []string{"-uuid", "01234567-89ab-cdef-0123-456789abcdef"}})
			c, err := qmp.Dial(t.Context(), vm.QMPPath())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			t.Run("machine", func(t *testing.T) { queryMachine(t, c, vm, memory) })
			t.Run("settings", func(t *testing.T) { changeSettings(t, c) })
			t.Run("run state", func(t *testing.T) { changeRunState(t, c) })
			t.Run("failed migration", func(t *testing.T) { failMigration(t, c) })
			t.Run("cancelled migration", func(t *testing.T) { cancelMigration(t, c) })
			t.Run("busy", func(t *testing.T) {
				if _, err := qmp.Dial(soon(t), vm.QMPPath()); !errors.Is(err, qmp.ErrBusy) {
					t.Errorf("got %v, want ErrBusy", err)
				}
			})
			t.Run("death", func(t *testing.T) {
				vm.Kill()
				if _, err := c.QueryStatus(t.Context()); !errors.Is(err, qmp.ErrClosed) || !(errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET)) {
					// Reading or writing may be first to meet the end.
					t.Errorf("got %v, want ErrClosed because of the end", err)
				}
			})
		})
	}
}

func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func queryMachine(t *testing.T, c *qmp.Client, vm *qemutest.VM, memory string) {
	ctx := t.Context()
	if got := must(c.QueryUUID(ctx))(t); got != "01234567-89ab-cdef-0123-456789abcdef" {
		t.Errorf("uuid %s", got)
	}
	backends := must(c.QueryMemdev(ctx))(t)
	if len(backends) != 1 || backends[0].ID != "ram0" || backends[0].Size != uint64(vm.Config().MemoryBytes) || !backends[0].Prealloc ||
		backends[0].Share == nil || !*backends[0].Share {
		t.Errorf("memory backends %+v", backends)
	}
	var path string
	do(t, c.QomGet(ctx, "/objects/ram0", "mem-path", &path))
	if path != memory {
		t.Errorf("mem-path %s, want %s", path, memory)
	}
	if cred := must(c.Process())(t); cred.PID != vm.Pid() {
		t.Errorf("peer %+v, want process %d", cred, vm.Pid())
	}
	var refusal *qmp.Error
	if err := c.QomGet(ctx, "/objects/ram0", "no-such", &path); !errors.As(err, &refusal) {
		t.Errorf("unknown property: %v, want a refusal", err)
	}
	err := c.Execute(ctx, "no-such-command", nil, nil)
	if !errors.As(err, &refusal) || refusal.Class != qmp.ClassCommandNotFound {
		t.Errorf("unknown command: %v", err)
	}
}

func changeSettings(t *testing.T, c *qmp.Client) {
	ctx := t.Context()
	do(t, c.SetMigrateParameters(ctx, qmp.MigrateParameters{
		MultifdChannels:    new(5),
		MultifdCompression: new("zstd"),
		MaxBandwidth:       new(uint64(1 << 40)),
		DowntimeLimit:      new(qmp.Milliseconds(123)),
	}))
	p := must(c.QueryMigrateParameters(ctx))(t)
	if *p.MultifdChannels != 5 || *p.MultifdCompression != "zstd" || *p.MaxBandwidth != 1<<40 || *p.DowntimeLimit != 123 {
		t.Errorf("parameters %+v", p)
	}
	if has := p.ZeroPageDetection != nil; has != c.Version().AtLeast(9, 0) {
		t.Errorf("QEMU %s has zero-page-detection: %v", c.Version(), has)
	}
	if p.TLSCreds == nil || *p.TLSCreds != "" || len(p.Other) == 0 {
		t.Errorf("parameters %+v", p)
	}
	do(t, c.SetMigrateParameters(ctx, qmp.MigrateParameters{MultifdCompression: new("none")}))

	var refusal *qmp.Error
	if err := c.SetMigrateParameters(ctx, qmp.MigrateParameters{MultifdCompression: new("qpl")}); !errors.As(err, &refusal) {
		t.Errorf("a method that is not built in: %v, want a refusal", err)
	}
	do(t, c.SetMigrateCapabilities(ctx, map[string]bool{"events": true, "multifd": false}))
	caps := must(c.QueryMigrateCapabilities(ctx))(t)
	if multifd, known := caps["multifd"]; !caps["events"] || multifd || !known {
		t.Errorf("capabilities %v", caps)
	}
	if _, has := caps["mapped-ram"]; has != c.Version().AtLeast(9, 0) {
		t.Errorf("QEMU %s has mapped-ram: %v", c.Version(), has)
	}
	if err := c.SetMigrateCapabilities(ctx, map[string]bool{"no-such": true}); !errors.As(err, &refusal) {
		t.Errorf("unknown capability: %v, want a refusal", err)
	}
}

func changeRunState(t *testing.T, c *qmp.Client) {
	ctx := t.Context()
	events := c.Subscribe("STOP", "RESUME")
	defer events.Close()
	do(t, c.Stop(ctx))
	if s := must(c.QueryStatus(ctx))(t); s.Running || s.Status != qmp.StatePaused {
		t.Errorf("after stop: %+v", s)
	}
	do(t, c.Cont(ctx))
	if s := must(c.QueryStatus(ctx))(t); !s.Running || s.Status != qmp.StateRunning {
		t.Errorf("after cont: %+v", s)
	}
	for _, want := range []string{"STOP", "RESUME"} {
		if e := <-events.Events(); e.Name != want || time.Since(e.Time).Abs() > time.Minute {
			t.Errorf("event %s at %v, want %s", e.Name, e.Time, want)
		}
	}
}

// failMigration migrates to where nobody listens. QEMU reports it at once or
// as the migration's end, depending on the version.
func failMigration(t *testing.T, c *qmp.Client) {
	err := c.Migrate(t.Context(), "unix:"+filepath.Join(t.TempDir(), "nobody"))
	var refusal *qmp.Error
	if errors.As(err, &refusal) {
		return
	}
	do(t, err)
	m := awaitEnd(t, c)
	if m.Status != qmp.MigrationFailed || m.ErrorDesc == "" {
		t.Errorf("migration to nobody: %+v", m)
	}
}

func cancelMigration(t *testing.T, c *qmp.Client) {
	ctx := t.Context()
	events := c.Subscribe("MIGRATION")
	defer events.Close()
	do(t, c.SetMigrateParameters(ctx, qmp.MigrateParameters{MaxBandwidth: new(uint64(1 << 20))}))
	do(t, c.Migrate(ctx, "exec:cat >/dev/null"))
	for m := (qmp.Migration{}); m.Status != qmp.MigrationActive || m.RAM.Transferred == 0; time.Sleep(5 * time.Millisecond) {
		m = must(c.QueryMigrate(ctx))(t)
		if m.Ended() {
			t.Fatalf("ended before it was cancelled: %+v", m)
		}
	}
	m := must(c.QueryMigrate(ctx))(t)
	if m.RAM.Total < 127<<20 || m.RAM.PageSize != 4096 || m.RAM.Remaining == 0 || m.TotalTime == 0 {
		t.Errorf("under way: %+v %+v", m, m.RAM)
	}
	do(t, c.MigrateCancel(ctx))
	if m := awaitEnd(t, c); m.Status != qmp.MigrationCancelled {
		t.Errorf("after the cancel: %+v", m)
	}
	if s := must(c.QueryStatus(ctx))(t); !s.Running {
		t.Errorf("after the cancel: %+v", s)
	}
	var e qmp.Event
	var data struct{ Status string }
	for data.Status != qmp.MigrationCancelled {
		select {
		case e = <-events.Events():
			do(t, e.Decode(&data))
		case <-time.After(30 * time.Second):
			t.Fatalf("no event of the cancel; the last was %s", e.Data)
		}
	}
}

func awaitEnd(t *testing.T, c *qmp.Client) qmp.Migration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		m := must(c.QueryMigrate(ctx))(t)
		if m.Ended() {
			return m
		}
		time.Sleep(5 * time.Millisecond)
	}
}
