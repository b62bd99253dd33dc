package qemu

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
	"github.com/vmferry/vmferry/snapshot"
)

// QEMU fails because the stream ends. The cause is the snapshot, so the error is the
// snapshot's, with the state that QEMU is left in.
func TestRestore_CorruptSnapshotIsTheError(t *testing.T) {
	server := qmptest.Start(t, qmptest.Config{})
	server.Answer("query-migrate", map[string]any{"status": "failed", "error-desc": "load of migration failed: Input/output error"})
	server.Answer("query-status", map[string]any{"status": "inmigrate", "running": false})
	s := &restore{incoming: incoming{noun: "restore", vm: vmOf(t, qmp.Socket(server.Path()))}}
	err := s.explain(t.Context(), fmt.Errorf("%w: pages-000000: the checksum is wrong", snapshot.ErrCorrupt))
	if !errors.Is(err, snapshot.ErrCorrupt) || !strings.HasPrefix(err.Error(), snapshot.ErrCorrupt.Error()) || strings.Contains(err.Error(), "Input/output") || !strings.Contains(err.Error(), "QMP: quit") {
		t.Errorf("a corrupt snapshot: %v", err)
	}
	if err := s.checkState(t.Context()); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "an earlier restore into this QEMU failed") {
		t.Errorf("another restore: %v", err)
	}
}
