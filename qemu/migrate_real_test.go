//go:build realqemu

package qemu_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
)

// twin starts a QEMU of another version that waits for the machine of vm.
func twin(t *testing.T, vm *qemutest.VM, version string) *qemutest.VM {
	t.Helper()
	cfg := vm.Config()
	cfg.Version, cfg.Incoming, cfg.MemFile = version, true, filepath.Join(t.TempDir(), "ram0")
	return qemutest.Start(t, cfg)
}

func migrateOptions(t *testing.T, vm *qemutest.VM) qemu.MigrateOptions {
	return qemu.MigrateOptions{
		Monitor: qmp.Socket(vm.QMPPath()), Guard: []string{program, "guard"}, AtPauseTimeout: hang,
		// A 7.2 loses no writes with the odd size of memory that qemutest gives it.
		AlwaysLive: true,
	}
}

// moved checks a machine that ran at src before, and has moved to dst.
func moved(t *testing.T, src, dst *qemutest.VM, before int, result *qemu.MigrateResult) {
	t.Helper()
	if result.Runs != "destination" || result.RunState != qmp.StateRunning || result.SourceState != qmp.StatePostmigrate {
		t.Errorf("%+v", result)
	}
	if got := state(t, dial(t, src.QMPPath2())); got != qmp.StatePostmigrate {
		t.Errorf("the source is %q", got)
	}
	if got := state(t, dial(t, dst.QMPPath2())); got != qmp.StateRunning {
		t.Errorf("the destination is %q", got)
	}
	sound(t, dst)
	if after, _ := dst.Count(); after < before {
		t.Errorf("the machine counts from %d, it was at %d at the source: it booted anew", after, before)
	}
	t.Logf("total %v, paused %v, downtime %v, handover %v, %d rounds", result.Total, result.Paused, result.Downtime, result.Handover, result.Rounds)
}

var movedBetween = []struct{ from, to string }{{"10.0", "10.0"}, {"7.2", "10.0"}, {"10.0", "7.2"}}

func TestRealQEMUMigrate_OneHost(t *testing.T) {
	t.Parallel()
	for _, tt := range movedBetween {
		t.Run(tt.from+" to "+tt.to, func(t *testing.T) {
			src := source(t, tt.from)
			dst := twin(t, src, tt.to)
			before, _ := src.Count()
			opts := migrateOptions(t, src)
			opts.Destination = qmp.Socket(dst.QMPPath())
			result, err := qemu.Migrate(soon(t), opts)
			if err != nil {
				t.Fatalf("%v\n%s", err, dst.Stderr())
			}
			moved(t, src, dst, before, result)
		})
	}
}

// accepting is an Accept that runs.
type accepting struct {
	result *qemu.AcceptResult
	err    error
	done   chan struct{}
}

func startAccept(ctx context.Context, opts qemu.AcceptOptions) *accepting {
	a := &accepting{done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.result, a.err = qemu.Accept(ctx, opts)
	}()
	return a
}

func (a *accepting) wait(t *testing.T) (*qemu.AcceptResult, error) {
	t.Helper()
	select {
	case <-a.done:
	case <-time.After(hang):
		t.Fatal("accept does not end")
	}
	return a.result, a.err
}
