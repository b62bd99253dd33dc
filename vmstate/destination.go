package vmstate

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/vmferry/vmferry/guest"
)

// Handler takes what the stream says of RAM, in the stream's order. An error that a
// method returns ends the reading.
type Handler interface {
	// Setup is called once, with the RAM blocks, before any page.
	Setup(l *guest.Layout, mode SyncMode) error
	// SyncPoint is called at each sync point. It returns when every multifd
	// channel has met its SYNC, and lets them go on.
	SyncPoint() error
	// Zero says that the page at offset of b is zero.
	Zero(b *guest.Block, offset uint64) error
	// Page brings the page at offset of b; data is valid during the call.
	Page(b *guest.Block, offset uint64, data []byte) error
}

// DestinationOptions bound and direct a Destination. The zero value is ready for use.
type DestinationOptions struct {
	// MaxDevices bounds the bytes of device state; 0 means 1 GiB.
	MaxDevices uint64
	// Budget, if not nil, is asked for the bytes of device state as they come, for
	// a bound over several channels. Its error ends the reading.
	Budget func(bytes int) error
	// MaxMemory bounds the bytes of all RAM blocks together, before anything is
	// made for them; 0 means DefaultMaxMemory.
	MaxMemory uint64
	// NoDescription accepts a stream whose device state has no description
	// behind it (machine option suppress-vmdesc). An end of file is then
	// taken for the end, whether the source finished or died. So is Quiet
	// behind the EOF byte of a source with a return path, which waits there
	// for the answer.
	NoDescription bool
	// Quiet is after how long without a byte, behind what can be the end of
	// device state without a description, a source with a return path is taken
	// to have sent all; 0 means 2 s. Its machine stands still meanwhile. It
	// needs a reader that has SetReadDeadline.
	Quiet time.Duration
	// SwitchoverAck sends SWITCHOVER_ACK when the return path is opened: for
	// sources with that capability.
	SwitchoverAck bool
}

// Destination reads the main channel of one migration as the side that keeps the
// machine: it answers PINGs, refuses postcopy, and keeps the device state whole.
type Destination struct {
	*Reader
	Replies *ReplyWriter
	opts    DestinationOptions
	stream  io.Reader

	devices    []byte
	commands   []Command
	returnPath bool
	silent     bool // see EndedSilent
}

// NewDestination returns a destination that reads r; the answers of the return path go
// to reply, which is the same connection.
func NewDestination(r io.Reader, reply io.Writer, opts DestinationOptions) *Destination {
	if opts.MaxDevices == 0 {
		opts.MaxDevices = 1 << 30
	}
	if opts.Quiet <= 0 {
		opts.Quiet = 2 * time.Second
	}
	return &Destination{Reader: NewReader(r, opts.MaxMemory), Replies: NewReplyWriter(reply), opts: opts, stream: r}
}

// Devices returns everything from the first device section to the end of the
// description, as it came.
func (d *Destination) Devices() []byte { return d.devices }

// Commands returns the commands that came.
func (d *Destination) Commands() []Command { return d.commands }

// ReturnPath says whether the source opened the return path, and so waits for SHUT.
func (d *Destination) ReturnPath() bool { return d.returnPath }

// Run reads the stream behind its head up to its end. It does not tell the source so:
// see Shut.
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

// maxCommands bounds the commands that a destination keeps.
const maxCommands = 1024

// command answers a command, or refuses it.
func (d *Destination) command(c Command) error {
	if len(d.commands) == maxCommands {
		return d.fail("command", fmt.Errorf("%w: more than %d commands", ErrMalformed, maxCommands))
	}
	d.commands = append(d.commands, c)
	switch id := c.ID; id {
	case CmdOpenReturnPath:
		return d.openReturnPath()
	case CmdPing:
		value, ok := c.Word()
		if !ok {
			return d.fail("command", fmt.Errorf("%w: a PING of %d bytes", ErrMalformed, len(c.Data)))
		}
		return d.Pong(value)
	case CmdPostcopyAdvise, CmdSwitchoverStart:
		return nil
	case CmdPostcopyListen, CmdPostcopyRun, CmdPostcopyDiscard, CmdPackaged, CmdPostcopyResume, CmdRecvBitmap:
		return d.fail("command", &SectionError{ID: id.String(), Reason: "postcopy was started at the source; its pages come only when a guest asks for them"})
	case CmdEnableCOLO:
		return d.fail("command", &SectionError{ID: id.String(), Reason: "turn x-colo off at the source"})
	default:
		return d.fail("command", fmt.Errorf("%w: unknown %v", ErrMalformed, id))
	}
}

func (d *Destination) openReturnPath() error {
	if d.Replies == nil {
		return d.fail("command", errors.New("the source opened the return path on a channel that cannot be written"))
	}
	d.returnPath = true
	if d.opts.SwitchoverAck {
		return d.replied(d.Replies.SwitchoverAck())
	}
	return nil
}

// NextCommand is Reader.NextCommand. It opens the return path if the command says so,
// and answers no PING.
func (d *Destination) NextCommand() (Command, error) {
	c, err := d.Reader.NextCommand()
	if err == nil && c.ID == CmdOpenReturnPath {
		err = d.openReturnPath()
	}
	return c, err
}

// Pong writes a PONG. Without a return path it does nothing: the source asks for none.
func (d *Destination) Pong(value uint32) error {
	if !d.returnPath {
		return nil
	}
	return d.replied(d.Replies.Pong(value))
}

// Shut tells a source that opened the return path, and so waits, how the migration
// went. Without a return path it does nothing.
func (d *Destination) Shut(ok bool) error {
	if !d.returnPath {
		return nil
	}
	return d.replied(d.Replies.Shut(ok))
}

func (d *Destination) replied(err error) error {
	if err != nil {
		return d.fail("return path", err)
	}
	return nil
}
