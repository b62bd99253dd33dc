package qmp

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

var (
	// ErrClosed is wrapped by the error of every call that is made, or still
	// waits, after the monitor has ended. The cause is wrapped too.
	ErrClosed = errors.New("connection closed")

	// ErrBusy is wrapped by Dial's error if the socket accepts the connection and
	// sends no greeting: most often another client uses the monitor.
	ErrBusy = errors.New("no QMP greeting")

	// ErrNoQEMU is wrapped by the error of an [Opener] if no QEMU is there.
	ErrNoQEMU = errors.New("no QEMU listens")

	// ErrSilent is wrapped when QEMU does not answer within the time of
	// [Machine.SetAnswerTimeout].
	ErrSilent = errors.New("QEMU does not answer")

	// ErrProtocol is wrapped if the peer sends data that is not QMP.
	ErrProtocol = errors.New("not QMP")

	// errLocalClose is the cause when the connection ended by Close.
	errLocalClose = errors.New("closed by this program")
)

// Error classes of QMP that a program may have to distinguish. All others are
// "GenericError".
const (
	ClassCommandNotFound = "CommandNotFound"
	ClassDeviceNotFound  = "DeviceNotFound"
)

// Error is QEMU's own answer that a command failed.
type Error struct {
	Command string // the command that was executed
	Class   string // QMP's error class, mostly "GenericError"
	Desc    string // QEMU's sentence, as it was sent
}

// Error returns QEMU's sentence without unprintable characters, because it is
// written to terminals and logs.
func (e *Error) Error() string {
	text := fmt.Sprintf("qmp: QEMU refused %s: %s", e.Command, printable(e.Desc))
	if e.Class != "" && e.Class != "GenericError" {
		text += " (" + printable(e.Class) + ")"
	}
	return text
}

// longestQuote bounds what an error message repeats of a peer's text.
const longestQuote = 500

// printable makes a peer's text fit for a terminal.
func printable(s string) string {
	cut := len(s) > longestQuote
	if cut {
		s = s[:longestQuote]
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "?"))
	if cut {
		s += "..."
	}
	return strings.TrimSpace(s)
}
