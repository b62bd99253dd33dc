//go:build realqemu

package qemutest

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/vmferry/vmferry/qmp"
)

// QEMU migrates a machine of this package to another one without vmferry: the guest
// continues to count, and its memory is intact. So a failure in a test with vmferry is not
// a failure of QEMU or of this package.
//
// The test migrates several times, because a bug with dirty pages (see oddSize) does not
// show every time.
func TestRealQEMU_MigratesWithoutVmferry(t *testing.T) {
	for _, version := range Versions() {
		t.Run(version, func(t *testing.T) {
			cfg := Config{Version: version, FillMiB: 8, WorkMiB: 4, RateMiBps: 8}
			source := Start(t, cfg)
			must(t, source.WaitReady(within(t, 2*time.Minute)))
			for range 2 {
				migrate(t, source, cfg)
			}
		})
	}
	t.Run("7.2 to 10.0", func(t *testing.T) {
		source := Start(t, Config{Version: "7.2", FillMiB: 8, WorkMiB: 4, RateMiBps: 8})
		must(t, source.WaitReady(within(t, 2*time.Minute)))
		cfg := source.Config()
		cfg.Version = "10.0"
		migrate(t, source, cfg)
	})
}

// migrate migrates the source's guest to a new machine and checks that both run.
func migrate(t *testing.T, source *VM, cfg Config) {
	t.Helper()
	cfg.Incoming = true
	destination := Start(t, cfg)
	defer destination.Kill()
	from, to := connect(t, source.QMPPath()), connect(t, destination.QMPPath())
	defer from.Close()

	uri := "unix:" + filepath.Join(t.TempDir(), "m")
	for _, c := range []*qmp.Client{to, from} {
		must(t, c.SetMigrateCapabilities(t.Context(), map[string]bool{"multifd": true}))
		must(t, c.SetMigrateParameters(t.Context(), qmp.MigrateParameters{
			MultifdChannels: new(2),
			MaxBandwidth:    new(uint64(32 << 20)),
			DowntimeLimit:   new(qmp.Milliseconds(40)),
		}))
	}
	must(t, to.MigrateIncoming(t.Context(), uri))
	must(t, from.Migrate(t.Context(), uri))
	done := awaitMigration(t, from)
	if done.Status != qmp.MigrationCompleted {
		t.Fatalf("ended %s: %s", done.Status, done.ErrorDesc)
	}
	if done.RAM == nil || done.RAM.DirtySyncCount < 3 || done.RAM.MultifdBytes == 0 {
		t.Errorf("not several rounds over multifd: %+v", done.RAM)
	}
	last, _ := source.Count()
	must(t, destination.WaitCount(within(t, time.Minute), last+5))
	must(t, destination.WaitVerified(within(t, 2*time.Minute)))

	// The source runs again after cont.
	must(t, from.Cont(t.Context()))
	must(t, source.WaitVerified(within(t, 2*time.Minute)))
}

// awaitMigration polls until the outgoing migration has ended.
func awaitMigration(t *testing.T, c *qmp.Client) qmp.Migration {
	t.Helper()
	ctx := within(t, 2*time.Minute)
	for {
		m, err := c.QueryMigrate(ctx)
		must(t, err)
		if m.Ended() {
			return m
		}
		time.Sleep(20 * time.Millisecond)
	}
}
