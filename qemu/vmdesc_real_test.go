//go:build realqemu

package qemu_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// suppressing is a machine that sends no description behind its device state.
func suppressing(version string) qemutest.Config {
	cfg := config(version)
	cfg.Machine, cfg.Paused = "pc-q35-7.2,suppress-vmdesc=on", true
	return cfg
}

func TestRealQEMUSave_SuppressedDescriptionIsRestored(t *testing.T) {
	for _, version := range []string{"7.2", "10.0"} {
		src := qemutest.Start(t, suppressing(version))
		path := filepath.Join(t.TempDir(), "snap")
		saveTo(t, path, options(src))
		src.Kill()
		for _, machine := range []string{"pc-q35-7.2", "pc-q35-7.2,suppress-vmdesc=on"} {
			cfg := suppressing(version)
			cfg.Machine, cfg.Paused, cfg.Incoming = machine, false, true
			dst := qemutest.Start(t, cfg)
			if _, err := qemu.Restore(soon(t), open(t, path), qemu.RestoreOptions{Monitor: qmp.Socket(dst.QMPPath())}); err != nil {
				t.Errorf("%s, into %s: %v\n%s", version, machine, err, dst.Stderr())
			}
			dst.Kill()
		}
	}
}

// With a return path the source waits for the answer, and its machine stands still.
func TestRealQEMUReceive_SuppressedDescriptionWithReturnPath(t *testing.T) {
	for _, version := range []string{"7.2", "10.0"} {
		for _, accept := range []bool{false, true} {
			src := qemutest.Start(t, suppressing(version))
			c := dial(t, src.QMPPath())
			setUp(t, c, multifd.None, 2)
			if err := c.SetMigrateCapabilities(t.Context(), map[string]bool{"return-path": true}); err != nil {
				t.Fatal(err)
			}
			ln, err := transport.Address{Network: "unix", Addr: filepath.Join(t.TempDir(), "s")}.Listen(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Migrate(t.Context(), "unix:"+ln.Addr().String()); err != nil {
				t.Fatal(err)
			}
			mem := new(guestmem.Memory)
			_, err = migration.Receive(soon(t), ln, migration.ReceiveConfig{
				Wire: migration.Wire{Channels: 2, Method: multifd.None}, Sink: mem, ConnectTimeout: 20 * time.Second,
				Main: vmstate.DestinationOptions{NoDescription: accept},
			})
			mem.Close()
			if accept != (err == nil) || !accept && !errors.Is(err, vmstate.ErrNoDescription) {
				t.Errorf("%s, accepted %v: error %v", version, accept, err)
			}
			want := qmp.MigrationFailed
			if accept {
				want = qmp.MigrationCompleted
			}
			ctx := soon(t)
			for {
				m, err := c.QueryMigrate(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if m.Status == want {
					break
				}
				if m.Ended() {
					t.Fatalf("%s, accepted %v: the migration is %s", version, accept, m.Status)
				}
				time.Sleep(20 * time.Millisecond)
			}
			src.Kill()
		}
	}
}
