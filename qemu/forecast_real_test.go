//go:build realqemu

package qemu_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/internal/soak"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qemu/forecast"
	"github.com/vmferry/vmferry/qmp"
)

// A busy machine is migrated from QEMU to QEMU, without vmferry, with the bandwidth of the
// forecast.
func TestRealQEMUForecast_HoldsTheRealMigration(t *testing.T) {
	const bandwidth = 20 << 20
	for _, version := range qemutest.Versions() {
		t.Run(version, func(t *testing.T) {
			cfg := qemutest.Config{Version: version, MemoryMiB: 256, FillMiB: 48, WorkMiB: 8, RateMiBps: 2}
			src := qemutest.Start(t, cfg)
			if err := src.WaitReady(soon(t)); err != nil {
				t.Fatal(err)
			}
			for range soak.Times(1, 3) {
				runsOn(t, src)
				r, err := qemu.Forecast(soon(t), qemu.ForecastOptions{Monitor: qmp.Socket(src.QMPPath()), Bandwidth: bandwidth})
				if err != nil {
					t.Fatal(err)
				}
				runsOn(t, src)
				p := r.Links[0].Methods[0]
				m := migrateForReal(t, src, bandwidth, r.DowntimeLimit)
				if p.Method != "none" || p.Converges != forecast.Converges {
					t.Fatalf("the forecast is %+v of %+v", p, r.Windows)
				}
				took, sent := m.TotalTime.Duration().Seconds(), float64(m.RAM.Transferred)
				t.Logf("%.2f to %.2f s, %.0f to %.0f bytes; the migration took %.2f s for %.0f bytes", p.Total.Low, *p.Total.High, p.LinkBytes.Low, *p.LinkBytes.High, took, sent)
				// A host with much other work does not let QEMU send at the bandwidth, and
				// then only the bytes can be compared.
				carried := sent / took
				if took < p.Total.Low || carried > 0.94*bandwidth && took > *p.Total.High {
					t.Errorf("the migration took %.2f s; the forecast was %.2f to %.2f s", took, p.Total.Low, *p.Total.High)
				}
				if sent < p.LinkBytes.Low || sent > *p.LinkBytes.High || sent/bandwidth > *p.Total.High {
					t.Errorf("the migration sent %.0f bytes; the forecast was %.0f to %.0f", sent, p.LinkBytes.Low, *p.LinkBytes.High)
				}
				if *p.Total.High > 2*p.Total.Low {
					t.Errorf("%.2f to %.2f s says little", p.Total.Low, *p.Total.High)
				}
			}
		})
	}
}

// migrateForReal migrates the machine to a new QEMU. The source then runs again.
func migrateForReal(t *testing.T, src *qemutest.VM, bandwidth uint64, downtime time.Duration) qmp.Migration {
	t.Helper()
	cfg := src.Config()
	cfg.Incoming = true
	dst := qemutest.Start(t, cfg)
	defer dst.Kill()
	from, to := dial(t, src.QMPPath()), dial(t, dst.QMPPath())
	defer from.Close()
	// Without multifd, whose channels QEMU lets send more than max-bandwidth.
	if err := from.SetMigrateParameters(t.Context(), qmp.MigrateParameters{MaxBandwidth: &bandwidth, DowntimeLimit: new(qmp.Milliseconds(downtime.Milliseconds()))}); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "m") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	uri := "unix:" + filepath.Join(dir, "m")
	if err := to.MigrateIncoming(t.Context(), uri); err != nil {
		t.Fatal(err)
	}
	if err := from.Migrate(t.Context(), uri); err != nil {
		t.Fatal(err)
	}
	ctx := soon(t)
	for {
		m, err := from.QueryMigrate(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if !m.Ended() {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		if m.Status != qmp.MigrationCompleted || m.RAM == nil {
			t.Fatalf("the migration ended %s: %s", m.Status, m.ErrorDesc)
		}
		if err := from.Cont(ctx); err != nil {
			t.Fatal(err)
		}
		return m
	}
}

// Forecast leaves QEMU's settings, the run state and the guest's memory as they are.
func TestRealQEMUForecast_LeavesTheMachineAsItIs(t *testing.T) {
	for _, version := range qemutest.Versions() {
		t.Run(version, func(t *testing.T) {
			src := source(t, version)
			look := dial(t, src.QMPPath2())
			defer look.Close()
			state := func() (s [3]any) {
				caps, err1 := look.QueryMigrateCapabilities(t.Context())
				params, err2 := look.QueryMigrateParameters(t.Context())
				status, err3 := look.QueryStatus(t.Context())
				if err1 != nil || err2 != nil || err3 != nil {
					t.Fatal(err1, err2, err3)
				}
				return [3]any{caps, params, status}
			}
			before := state()
			r, err := qemu.Forecast(soon(t), qemu.ForecastOptions{Monitor: qmp.Socket(src.QMPPath()), Pages: 200})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, state()); diff != "" {
				t.Error(diff)
			}
			// Linux and the guest's pages fill more than a tenth of the memory.
			if r.Sample.Pages != 200 || r.Sample.Changed == 0 || r.Sample.Zero.High > 0.9 || len(r.Methods) != 3 || r.Methods[1].First.High >= 1 {
				t.Errorf("%+v, %+v", r.Sample, r.Methods)
			}
			sound(t, src)
			if _, err := qemu.Forecast(soon(t), qemu.ForecastOptions{Monitor: qmp.Socket(src.QMPPath()), Mode: qmp.DirtyBitmap, Pages: 1}); !errors.Is(err, qemu.ErrUnable) {
				t.Errorf("a dirty bitmap without KVM: %v", err)
			}
			runsOn(t, src)
		})
	}
}
