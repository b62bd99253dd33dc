package qemu

import (
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/internal/termtext"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/vmstate"
)

// sawPeerLeave tells whether an error says only that the other side closed the
// connection. Then the other side's error is the cause.
func sawPeerLeave(err error) bool {
	for _, gone := range []error{
		io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, unix.ECONNRESET, unix.EPIPE, multifd.ErrTruncated, vmstate.ErrTruncated,
	} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

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

// explainBy picks the error that explains a failure that both sides saw: QEMU's, if
// this side only saw that QEMU closed the connection, otherwise this side's own.
func explainBy(own, qemu error) error {
	switch {
	case qemu == nil:
		return own
	case own == nil:
		return qemu
	case sawPeerLeave(own):
		return fmt.Errorf("%w (vmferry: %w)", qemu, own)
	}
	return own
}

func orUnknown(reason string) string {
	if reason == "" {
		return "QEMU gives no reason (see its log)"
	}
	return termtext.Text(reason)
}
