//go:build realqemu

package qemu_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/internal/soak"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/transport"
)

// idle starts a machine that works on nothing, as libvirt starts one: a guest that
// powers off stays there in the state shutdown.
func idle(t *testing.T, version string, incoming bool) *qemutest.VM {
	t.Helper()
	cfg := config(version)
	cfg.MemFile, cfg.Incoming = filepath.Join(t.TempDir(), "ram0"), incoming
	cfg.ExtraArgs = []string{"-no-shutdown"}
	vm := qemutest.Start(t, cfg)
	if !incoming {
		if err := vm.WaitReady(soon(t)); err != nil {
			t.Fatal(err)
		}
	}
	return vm
}

// whileSaving saves the machine slowly, and calls change when the migration is
// under way.
func whileSaving(t *testing.T, vm *qemutest.VM, look *qmp.Client, path string, change func()) (*vmferry.SaveResult, error) {
	t.Helper()
	opts := options(vm)
	opts.AlwaysLive = true
	opts.Bandwidth = 16 << 20
	changed := false
	opts.Progress = func(p migration.Progress) {
		if p.Phase != "memory" || p.QEMUStatus != qmp.MigrationActive || changed {
			return
		}
		changed = true
		change()
		// The rest may be as fast as it is.
		if err := look.SetMigrateParameters(t.Context(), qmp.MigrateParameters{MaxBandwidth: new(uint64(1 << 40))}); err != nil {
			t.Error(err)
		}
	}
	result, err := vmferry.Save(soon(t), vmferry.Snapshot{Path: path}, opts)
	if !changed {
		t.Error("the machine was not changed while it was saved")
	}
	return result, err
}

func TestRealQEMURunState_StoppedDuringSaveStaysSo(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		stop func(*testing.T, *qmp.Client)
		want string
	}{
		{"paused by a management program", func(t *testing.T, c *qmp.Client) {
			if err := c.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		}, qmp.StatePaused},
		{"powered off", func(t *testing.T, c *qmp.Client) {
			// The machine has -no-reboot: a reset is a power-off.
			if err := c.Execute(t.Context(), "system_reset", nil, nil); err != nil {
				t.Error(err)
			}
			for state(t, c) != "shutdown" {
				time.Sleep(10 * time.Millisecond)
			}
		}, "shutdown"},
	}
	for _, version := range []string{"7.2", "10.0"} {
		for _, tt := range tests {
			t.Run(version+"/"+tt.name, func(t *testing.T) {
				src := idle(t, version, false)
				look := dial(t, src.QMPPath2())
				path := filepath.Join(t.TempDir(), "s")
				result, err := whileSaving(t, src, look, path, func() { tt.stop(t, look) })
				if err != nil {
					t.Fatal(err)
				}
				want := tt.want
				if version == "7.2" {
					want = qmp.StatePostmigrate // it does not run, and this QEMU has no way back
				}
				if is := state(t, look); is != want || result.RunState != want {
					t.Errorf("the machine is %q and the result says %q, want %q", is, result.RunState, want)
				}
				if got := open(t, path).Manifest().Machine.RunState; got != tt.want || result.SavedRunState != tt.want {
					t.Errorf("the manifest says %q and the result %q, want %q", got, result.SavedRunState, tt.want)
				}
				src.Kill()
				dst := idle(t, version, true)
				restored, err := qemu.Restore(soon(t), open(t, path), qemu.RestoreOptions{Monitor: qmp.Socket(dst.QMPPath())})
				if err != nil {
					t.Fatalf("%v\n%s", err, dst.Stderr())
				}
				if restored.RunState != tt.want {
					t.Errorf("restored to %q, want %q", restored.RunState, tt.want)
				}
			})
		}
	}
}

// A nightly job saves the same paused machine again and again.
func TestRealQEMURunState_PausedMachineIsSavedTwice(t *testing.T) {
	t.Parallel()
	src := idle(t, "10.0", false)
	look := dial(t, src.QMPPath2())
	if err := look.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		path := filepath.Join(t.TempDir(), "s")
		result := saveTo(t, path, options(src))
		if is := state(t, look); is != qmp.StatePaused || result.RunState != is || result.Paused != 0 {
			t.Errorf("save %d leaves the machine %q and says %q, paused for %v", i, is, result.RunState, result.Paused)
		}
		if _, err := open(t, path).Verify(t.Context(), nil); err != nil {
			t.Errorf("save %d: %v", i, err)
		}
	}
	if err := look.Cont(t.Context()); err != nil {
		t.Fatal(err)
	}
	runsOn(t, src)
}

func TestRealQEMURunState_PostmigrateIsExplained(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"7.2", "10.0"} {
		t.Run(version, func(t *testing.T) {
			src := idle(t, version, false)
			opts := options(src)
			opts.StayPaused = true
			saveTo(t, filepath.Join(t.TempDir(), "s"), opts)
			_, err := vmferry.Save(t.Context(), vmferry.Snapshot{Path: filepath.Join(t.TempDir(), "s")}, options(src))
			if !errors.Is(err, qemu.ErrState) || !strings.Contains(err.Error(), "cont") {
				t.Errorf("%v, want ErrState and the way out of it", err)
			}
		})
	}
}

// With this option QEMU ends its stream without a description.
func TestRealQEMUSave_MachineWithoutDescription(t *testing.T) {
	cfg := config("10.0")
	cfg.Machine = "pc-q35-7.2,suppress-vmdesc=on"
	src := qemutest.Start(t, cfg)
	if err := src.WaitReady(soon(t)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	saveTo(t, path, options(src))
	runsOn(t, src)
	src.Kill()
	cfg.Incoming = true
	dst := qemutest.Start(t, cfg)
	if _, err := qemu.Restore(soon(t), open(t, path), qemu.RestoreOptions{Monitor: qmp.Socket(dst.QMPPath())}); err != nil {
		t.Fatalf("%v\n%s", err, dst.Stderr())
	}
	sound(t, dst)
}

func TestRealQEMUSave_CancelledElsewhereSaysSo(t *testing.T) {
	src := idle(t, "10.0", false)
	look := dial(t, src.QMPPath2())
	for command, args := range map[string]string{
		"migrate_cancel": "{}",
		"yank":           `{"instances": [{"type": "migration"}]}`,
	} {
		t.Run(command, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			_, err := whileSaving(t, src, look, path, func() {
				if err := look.Execute(t.Context(), command, rawJSON(args), nil); err != nil {
					t.Error(err)
				}
			})
			// QEMU 10.0 calls a migration that was cancelled while it writes failed.
			if err == nil || !strings.HasPrefix(err.Error(), "the migration was cancelled at QEMU") && !strings.HasPrefix(err.Error(), "QEMU failed to send") {
				t.Errorf("the error is %v, want one that begins with QEMU's reason", err)
			}
			noSnapshot(t, path)
			runsOn(t, src)
		})
	}
}

type rawJSON string

func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }

// A QEMU whose multifd is set off while it cleans a failed migration up aborts.
func TestRealQEMUInterrupted_SurvivesAtAnyMoment(t *testing.T) {
	for version, long := range map[string]int{"10.0": 100, "7.2": 50} {
		t.Run(version, func(t *testing.T) {
			src := idle(t, version, false)
			look := dial(t, src.QMPPath2())
			signals := []os.Signal{os.Interrupt, syscall.SIGTERM, os.Kill}
			sockets := t.TempDir()
			for i := range soak.Times(20, long) {
				path := filepath.Join(t.TempDir(), "s")
				cmd := exec.Command(program, "save", "--qmp", src.QMPPath(), "--socket-dir", sockets, "--bandwidth", "8000000", path)
				out := new(strings.Builder)
				cmd.Stdout, cmd.Stderr = out, out
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				after := time.Duration(rand.Int64N(int64(1500 * time.Millisecond)))
				time.Sleep(after)
				cmd.Process.Signal(signals[i%len(signals)])
				cmd.Wait()
				if !src.Alive() {
					t.Fatalf("interruption %d, by %v after %v: QEMU died\n%s\n%s", i, signals[i%len(signals)], after, src.Stderr(), out)
				}
				waitMigrationUndone(t, look)
				if is := state(t, look); is != qmp.StateRunning {
					t.Fatalf("interruption %d: the machine is %q\n%s", i, is, out)
				}
				noSnapshot(t, path)
			}
			runsOn(t, src)
			waitNoGuard(t)
			if left, _ := os.ReadDir(sockets); len(left) > 0 {
				t.Errorf("directories of sockets are left behind: %v", left)
			}
		})
	}
}

func TestRealQEMUDied_IsSaid(t *testing.T) {
	src := idle(t, "10.0", false)
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	opts := options(src)
	opts.Bandwidth = 8 << 20
	opts.Progress = func(p migration.Progress) {
		if p.QEMUStatus == qmp.MigrationActive && ctx.Err() == nil {
			src.Kill()
			cancel(interrupted)
		}
	}
	_, err := vmferry.Save(ctx, vmferry.Snapshot{Path: filepath.Join(t.TempDir(), "s")}, opts)
	if !errors.Is(err, qemu.ErrGone) || !strings.Contains(err.Error(), "QEMU died") {
		t.Errorf("%v, want ErrGone that says that QEMU died", err)
	}
}

// TestRealQEMUFrozen_SaveEndsAndTheGuardFinishes freezes QEMU while it is saved, as a
// container's freezer does: the save may not wait for good, and the machine, which the
// save has paused, runs on when QEMU is thawed.
func TestRealQEMUFrozen_SaveEndsAndTheGuardFinishes(t *testing.T) {
	src := idle(t, "7.2", false)
	look := dial(t, src.QMPPath2())
	cred, err := look.Process()
	if err != nil {
		t.Fatal(err)
	}
	opts := options(src)
	opts.Bandwidth, opts.StallTimeout = 16<<20, time.Second
	frozen := false
	opts.Progress = func(p migration.Progress) {
		if p.Phase == "memory" && p.QEMUStatus == qmp.MigrationActive && !frozen {
			frozen = true
			if err := syscall.Kill(cred.PID, syscall.SIGSTOP); err != nil {
				t.Error(err)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "s")
	_, err = vmferry.Save(soon(t), vmferry.Snapshot{Path: path}, opts)
	if !errors.Is(err, transport.ErrStalled) || !errors.Is(err, qmp.ErrSilent) {
		t.Errorf("frozen: %v, %v; want ErrStalled and ErrSilent", frozen, err)
	}
	noSnapshot(t, path)
	if err := syscall.Kill(cred.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the guard lets the machine run on", func() bool { return state(t, look) == qmp.StateRunning })
	waitMigrationUndone(t, look)
	waitNoGuard(t)
}
