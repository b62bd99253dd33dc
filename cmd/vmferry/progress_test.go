package main

import (
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/migration"
)

// In the first round QEMU reports 0 pages written, and its limit as the expected downtime.
func TestMigrateLine_FirstRoundHasNoDirtyRate(t *testing.T) {
	s := migration.Progress{Phase: "memory", Round: 1, ExpectedDowntime: 300 * time.Millisecond, DirtyPagesPerSecond: 7}
	for round, want := range map[uint64]bool{1: false, 2: true} {
		s.Round = round
		line := migrateLine(s)
		if strings.Contains(line, "7 pages/s written") != want || strings.Contains(line, "expected downtime 300ms") != want {
			t.Errorf("round %d: %s", round, line)
		}
	}
}
