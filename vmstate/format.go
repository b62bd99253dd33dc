package vmstate

import (
	"errors"
	"fmt"
)

const (
	streamMagic   = 0x5145564d // "QEVM"
	streamVersion = 3
)

// The bytes that begin a section of the stream.
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

// The commands that a source can send.
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

// SyncMode is where the sync points of a migration are: the places in the main
// channel at which every multifd channel carries one SYNC.
type SyncMode uint8

const (
	// SyncPerRound puts one at each MULTIFD_FLUSH record: machine types from
	// 8.1 on.
	SyncPerRound SyncMode = iota
	// SyncPerSection puts one at the end of every RAM section: machine types
	// up to 8.0.
	SyncPerSection
)

func (m SyncMode) String() string {
	if m == SyncPerSection {
		return "section"
	}
	return "round"
}

// MarshalText gives "round" or "section".
func (m SyncMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText takes what MarshalText gives.
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
	// ErrMalformed is wrapped by every error about bytes that break the
	// protocol.
	ErrMalformed = errors.New("malformed main channel")
	// ErrTruncated is wrapped when the channel ends before the stream does.
	ErrTruncated = errors.New("the main channel ended early")
	// ErrTooLarge is wrapped when the source's machine has more memory than is
	// allowed.
	ErrTooLarge = errors.New("more guest memory than this side takes")
	// ErrUnsupported is wrapped when the stream has something in it that
	// cannot be carried.
	ErrUnsupported = errors.New("not supported")
)

// StreamError says where in the main channel something went wrong.
type StreamError struct {
	// Offset is the byte of the stream after what was read last.
	Offset uint64
	// Field is the part of the stream, in the protocol's words.
	Field string
	Err   error
}

func (e *StreamError) Error() string {
	return fmt.Sprintf("main channel: at byte %d: %s: %v", e.Offset, e.Field, e.Err)
}
func (e *StreamError) Unwrap() error { return e.Err }

// SectionError says that the stream has a section of a kind that cannot be
// carried. It wraps ErrUnsupported.
type SectionError struct {
	ID     string
	Reason string
}

func (e *SectionError) Error() string {
	return fmt.Sprintf("section %q %v: %s", e.ID, ErrUnsupported, e.Reason)
}
func (e *SectionError) Unwrap() error { return ErrUnsupported }
