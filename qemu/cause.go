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

// sawPeerLeave tells whether an error says no more than that the other side ended
// the connection: then the other side knows why.
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

// errorOfMigration returns what QEMU says of a migration that ended badly, nil if it
// did not end badly. side is what QEMU was doing.
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

// explainBy picks which of two ends of one failure is told first: QEMU's, if this
// end only saw QEMU leave, and otherwise this end's own, which QEMU then saw.
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
		return "it gives no reason (its log may)"
	}
	return termtext.Text(reason)
}
