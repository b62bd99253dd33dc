package qemutest

import (
	"context"
	"errors"
	"os"
	"testing"
)

// Start starts a machine for a test; see [Launch]. The machine ends with the test. If the
// test fails, Start logs the last output of QEMU and of the guest.
//
// A machine that cannot be started fails the test. Start does not skip it.
func Start(tb testing.TB, cfg Config) *VM {
	tb.Helper()
	if cfg.Dir == "" {
		// Not tb.TempDir, whose path grows with the test's name: a socket's
		// path must fit into 107 bytes.
		dir, err := os.MkdirTemp("", "vmferry")
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { os.RemoveAll(dir) })
		cfg.Dir = dir
	}
	// Not tb.Context, which ends before the cleanup functions of the test run.
	vm, err := Launch(context.Background(), cfg)
	if errors.Is(err, ErrNotSetUp) {
		tb.Fatalf("%v\nQEMU and the test guest are prepared by: scripts/setup test", err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("output of QEMU %s, process %d:\n%s", vm.cfg.Version, vm.Pid(), lastLines(vm.Stderr(), 20))
			tb.Logf("last output of its guest:\n%s", lastLines(vm.Serial(), 20))
		}
		vm.Close()
	})
	return vm
}
