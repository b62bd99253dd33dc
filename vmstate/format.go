package vmstate

import (
	"errors"
	"fmt"
)

const (
	streamMagic   = 0x5145564d // "QEVM"
	streamVersion = 3
)

// The type bytes of sections.
const (
	sectionEOF           = 0x00
	sectionStart         = 0x01
	sectionPart          = 0x02
	sectionEnd           = 0x03
	sectionFull          = 0x04
	sectionSubsection    = 0x05
	sectionDescription   = 0x06
	sectionConfiguration = 0x07
	sectionCommand       = 0x08
	sectionFooter        = 0x7e
)

// The low bits of a record of the RAM section; the high bits are an offset.
const (
	ramZero     = 0x02
	ramMemSize  = 0x04
	ramPage     = 0x08
	ramEOS      = 0x10
	ramContinue = 0x20
	ramXBZRLE   = 0x40
	ramHook     = 0x80
	ramCompress = 0x100
	ramFlush    = 0x200
	ramFlagMask = 0x3ff // the smallest target page is 1 KiB
)

const (
	ramSection = "ram"
	ramVersion = 4
)

// CommandID is a command of the main channel.
type CommandID uint16

// The commands of a source.
const (
	CmdOpenReturnPath  CommandID = 1
	CmdPing            CommandID = 2
	CmdPostcopyAdvise  CommandID = 3
	CmdPostcopyListen  CommandID = 4
	CmdPostcopyRun     CommandID = 5
	CmdPostcopyDiscard CommandID = 6
	CmdPackaged        CommandID = 7
	CmdEnableCOLO      CommandID = 8
	CmdPostcopyResume  CommandID = 9
	CmdRecvBitmap      CommandID = 10
	CmdSwitchoverStart CommandID = 11
)

func (c CommandID) String() string {
	names := [...]string{1: "OPEN_RETURN_PATH", "PING", "POSTCOPY_ADVISE", "POSTCOPY_LISTEN", "POSTCOPY_RUN",
		"POSTCOPY_RAM_DISCARD", "PACKAGED", "ENABLE_COLO", "POSTCOPY_RESUME", "RECV_BITMAP", "SWITCHOVER_START"}
	if int(c) < len(names) && names[c] != "" {
		return names[c]
	}
	return fmt.Sprintf("command %d", uint16(c))
}

// Command is a command and its data.
type Command struct {
	ID   CommandID
	Data []byte
}

// Messages of the return path, from destination to source.
const (
	replyShut          = 1
	replyPong          = 2
	replySwitchoverAck = 7
)

// SyncMode determines the sync points of a migration: the positions in the main
// channel for which every multifd channel carries one SYNC.
type SyncMode uint8

const (
	// SyncPerRound has a sync point at each MULTIFD_FLUSH record: machine types
	// from 8.1 on.
	SyncPerRound SyncMode = iota
	// SyncPerSection has a sync point at the end of every RAM section: machine
	// types up to 8.0.
	SyncPerSection
)

func (m SyncMode) String() string {
	if m == SyncPerSection {
		return "section"
	}
	return "round"
}

// MarshalText returns "round" or "section".
func (m SyncMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText parses the result of MarshalText.
func (m *SyncMode) UnmarshalText(b []byte) error {
	switch string(b) {
	case "round":
		*m = SyncPerRound
	case "section":
		*m = SyncPerSection
	default:
		return fmt.Errorf("vmstate: unknown sync mode %q", b)
	}
	return nil
}

var (
	// ErrMalformed is wrapped when bytes violate the protocol.
	ErrMalformed = errors.New("malformed main channel")
	// ErrTruncated is wrapped when the connection ends before the stream does.
	ErrTruncated = errors.New("truncated main channel")
	// ErrTooLarge is wrapped when the source's machine has more memory than is
	// allowed.
	ErrTooLarge = errors.New("guest memory too large")
	// ErrUnsupported is wrapped when the stream contains something that cannot be
	// received.
	ErrUnsupported = errors.New("unsupported main channel content")
)

// StreamError is an error at a position of the main channel.
type StreamError struct {
	// Offset is the number of bytes of the stream that were read before the error.
	Offset uint64
	// Field names the part of the stream, in the protocol's terms.
	Field string
	Err   error
}

func (e *StreamError) Error() string {
	return fmt.Sprintf("main channel: at byte %d: %s: %v", e.Offset, e.Field, e.Err)
}
func (e *StreamError) Unwrap() error { return e.Err }

// SectionError is the error for a section, subsection or command that cannot be
// received. It wraps ErrUnsupported.
type SectionError struct {
	ID     string // the name of the section, subsection or command
	Reason string // why, and what the user can do
}

func (e *SectionError) Error() string {
	return fmt.Sprintf("section %q not supported: %s", e.ID, e.Reason)
}
func (e *SectionError) Unwrap() error { return ErrUnsupported }
