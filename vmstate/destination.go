package vmstate

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/vmferry/vmferry/guest"
)

// Handler receives the RAM events of a stream, in the stream's order and from one
// goroutine. Destination.Run returns the first error of a method.
type Handler interface {
	// Setup is called once, with the RAM blocks, before any page.
	Setup(l *guest.Layout, mode SyncMode) error
	// SyncPoint is called at each sync point. It must not return before every
	// multifd channel has reached its SYNC.
	SyncPoint() error
	// Zero is called for a zero page; offset is its byte offset in b.
	Zero(b *guest.Block, offset uint64) error
	// Page is called for a page with data. offset is its byte offset in b; data
	// has the size of a page and is valid during the call.
	Page(b *guest.Block, offset uint64, data []byte) error
}

// DestinationOptions configure a Destination. The zero value is ready for use.
type DestinationOptions struct {
	// MaxDevices bounds the bytes of device state; 0 means 1 GiB.
	MaxDevices uint64
	// Budget, if not nil, is called with the number of bytes before device state
	// is kept, for a bound over several channels. Its error ends the reading.
	Budget func(bytes int) error
	// MaxMemory bounds the bytes of all RAM blocks together; 0 means
	// DefaultMaxMemory. It is checked before anything is allocated for the blocks.
	MaxMemory uint64
	// NoDescription accepts device state without a description (machine option
	// suppress-vmdesc). The end of the file then counts as the end of the stream,
	// even if the source died. With a return path, Quiet after an EOF byte does so
	// too, because the source waits there for SHUT.
	NoDescription bool
	// Quiet is how long a source with a return path must be silent, at a possible
	// end of device state without a description, to count as finished; 0 means 2 s.
	// The machine is paused meanwhile. Quiet needs a reader with the method
	// SetReadDeadline.
	Quiet time.Duration
	// SwitchoverAck sends SWITCHOVER_ACK when the source opens the return path, for
	// sources with the capability switchover-ack.
	SwitchoverAck bool
}

// Destination reads the main channel of one migration. It answers PINGs, refuses
// postcopy, and keeps the whole device state in memory.
type Destination struct {
	*Reader
	Replies *ReplyWriter
	opts    DestinationOptions
	stream  io.Reader

	devices        []byte
	commands       []Command
	returnPath     bool
	endedBySilence bool // see EndedSilent
}

// NewDestination returns a destination that reads r and writes the return path to
// reply, usually the same connection; reply may be nil.
func NewDestination(r io.Reader, reply io.Writer, opts DestinationOptions) *Destination {
	if opts.MaxDevices == 0 {
		opts.MaxDevices = 1 << 30
	}
	if opts.Quiet <= 0 {
		opts.Quiet = 2 * time.Second
	}
	return &Destination{Reader: NewReader(r, opts.MaxMemory), Replies: NewReplyWriter(reply), opts: opts, stream: r}
}

// Devices returns the unchanged bytes from the first device section to the end of the
// description.
func (d *Destination) Devices() []byte { return d.devices }

// Commands returns the commands that Run received, at most 1024.
func (d *Destination) Commands() []Command { return d.commands }

// ReturnPath reports whether the source opened the return path, and so waits for SHUT.
func (d *Destination) ReturnPath() bool { return d.returnPath }

// Run reads the stream from the end of its head to its end. It sends no SHUT.
func (d *Destination) Run(h Handler) error {
	for {
		e, err := d.Next()
		if err != nil {
			return err
		}
		switch e.Kind {
		case EventSetup:
			err = h.Setup(e.Layout, e.Mode)
		case EventSync:
			err = h.SyncPoint()
		case EventZero:
			err = h.Zero(e.Block, e.Offset)
		case EventPage:
			err = h.Page(e.Block, e.Offset, e.Data)
		case EventCommand:
			err = d.command(e.Command)
		case EventDevices:
			return d.readDevices(e)
		}
		if err != nil {
			return err
		}
	}
}

// maxCommands bounds the number of commands that a destination keeps.
const maxCommands = 1024

// command keeps a command, and answers or refuses it.
func (d *Destination) command(c Command) error {
	if len(d.commands) == maxCommands {
		return d.fail("command", fmt.Errorf("%w: more than %d commands", ErrMalformed, maxCommands))
	}
	d.commands = append(d.commands, c)
	switch id := c.ID; id {
	case CmdOpenReturnPath:
		return d.openReturnPath()
	case CmdPing:
		value, ok := c.PingValue()
		if !ok {
			return d.fail("command", fmt.Errorf("%w: a PING of %d bytes", ErrMalformed, len(c.Data)))
		}
		return d.Pong(value)
	case CmdPostcopyAdvise, CmdSwitchoverStart:
		return nil
	case CmdPostcopyListen, CmdPostcopyRun, CmdPostcopyDiscard, CmdPackaged, CmdPostcopyResume, CmdRecvBitmap:
		return d.fail("command", &SectionError{ID: id.String(), Reason: "postcopy cannot be received: it sends pages only on demand (turn postcopy-ram off at the source)"})
	case CmdEnableCOLO:
		return d.fail("command", &SectionError{ID: id.String(), Reason: "COLO cannot be received (turn x-colo off at the source)"})
	default:
		return d.fail("command", fmt.Errorf("%w: unknown %v", ErrMalformed, id))
	}
}

func (d *Destination) openReturnPath() error {
	if d.Replies == nil {
		return d.fail("command", errors.New("the source opens the return path, and this side cannot write to the channel"))
	}
	d.returnPath = true
	if d.opts.SwitchoverAck {
		return d.replyError(d.Replies.SwitchoverAck())
	}
	return nil
}

// NextCommand is Reader.NextCommand. It handles OPEN_RETURN_PATH, and does not answer
// PING.
func (d *Destination) NextCommand() (Command, error) {
	c, err := d.Reader.NextCommand()
	if err == nil && c.ID == CmdOpenReturnPath {
		err = d.openReturnPath()
	}
	return c, err
}

// Pong writes a PONG of that value. It does nothing if the source has not opened the
// return path.
func (d *Destination) Pong(value uint32) error {
	if !d.returnPath {
		return nil
	}
	return d.replyError(d.Replies.Pong(value))
}

// Shut writes the final message of the return path: whether the migration succeeded.
// It does nothing if the source has not opened the return path.
func (d *Destination) Shut(ok bool) error {
	if !d.returnPath {
		return nil
	}
	return d.replyError(d.Replies.Shut(ok))
}

func (d *Destination) replyError(err error) error {
	if err != nil {
		return d.fail("return path", err)
	}
	return nil
}
