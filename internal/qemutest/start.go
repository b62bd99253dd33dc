package qemutest

import (
	"context"
	"errors"
	"os"
	"testing"
)

// Start starts a machine for a test; see [Launch]. It ends with the test. If
// the test failed, what QEMU and the guest said last is logged.
//
// A machine that cannot be started fails the test; nothing is skipped.
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
	// Not tb.Context, which ends before the test's own clean-up has run.
	vm, err := Launch(context.Background(), cfg)
	if errors.Is(err, ErrNotSetUp) {
		tb.Fatalf("%v\nQEMU and the test guest are prepared by: scripts/setup test", err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("QEMU %s, process %d, said:\n%s", vm.cfg.Version, vm.Pid(), lastLines(vm.Stderr(), 20))
			tb.Logf("its guest said last:\n%s", lastLines(vm.Serial(), 20))
		}
		vm.Close()
	})
	return vm
}
