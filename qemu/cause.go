package qemu

import (
	"fmt"

	"github.com/vmferry/vmferry/internal/termtext"
	"github.com/vmferry/vmferry/qmp"
)

// errorOfMigration returns QEMU's reason for a migration that failed or was cancelled,
// else nil. side is what QEMU was doing.
func errorOfMigration(m qmp.Migration, side string) error {
	switch m.Status {
	case qmp.MigrationCancelled:
		return fmt.Errorf("the migration was cancelled at QEMU, not by vmferry (QMP: migrate_cancel, yank, or a management program)%s", reasonOf(m))
	case qmp.MigrationFailed:
		return fmt.Errorf("QEMU failed to %s: %s", side, orUnknown(m.ErrorDesc))
	}
	return nil
}

func reasonOf(m qmp.Migration) string {
	if m.ErrorDesc == "" {
		return ""
	}
	return fmt.Sprintf(": %q", m.ErrorDesc)
}

func orUnknown(reason string) string {
	if reason == "" {
		return "QEMU gives no reason (see its log)"
	}
	return termtext.Text(reason)
}
