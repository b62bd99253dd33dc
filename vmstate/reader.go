package vmstate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/vmferry/vmferry/guest"
)

// Handler is told what the stream says of RAM, in the stream's order. An error
// that it returns ends the reading.
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

// ReaderOptions bound and direct a Reader. The zero value is ready for use.
type ReaderOptions struct {
	// MaxDevices bounds the bytes of device state; 0 means 1 GiB.
	MaxDevices uint64
	// Budget, if not nil, is asked for the bytes of device state as they come, for
	// a bound over several readers. Its error ends the reading.
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

// DefaultMaxMemory is how much memory a source's machine may have: 16 TiB.
const DefaultMaxMemory = 16 << 40

// Reader reads the main channel of one migration.
type Reader struct {
	in    *input
	reply io.Writer
	opts  ReaderOptions
	h     Handler

	config     *Configuration
	head       []byte
	devices    []byte
	commands   []Command
	returnPath bool
	bare       bool // see EndedQuiet

	layout   *guest.Layout
	mode     SyncMode
	ramID    uint32
	ramBegun bool
	ramDone  bool
	block    *guest.Block // for CONTINUE
	page     []byte
	rounds   int
}

// NewReader returns a reader of r; answers of the return path go to reply,
// which is the same connection.
func NewReader(r io.Reader, reply io.Writer, opts ReaderOptions) *Reader {
	if opts.MaxDevices == 0 {
		opts.MaxDevices = 1 << 30
	}
	if opts.MaxMemory == 0 {
		opts.MaxMemory = DefaultMaxMemory
	}
	if opts.Quiet <= 0 {
		opts.Quiet = 2 * time.Second
	}
	return &Reader{in: newInput(r), reply: reply, opts: opts}
}

// Head returns the header and configuration as they came.
func (r *Reader) Head() []byte { return r.head }

// Devices returns everything from the first device section to the end of the
// description, as it came.
func (r *Reader) Devices() []byte { return r.devices }

// Commands returns the commands that came.
func (r *Reader) Commands() []Command { return r.commands }

// Configuration returns what the head says, nil before it was read.
func (r *Reader) Configuration() *Configuration { return r.config }

// Layout returns the RAM blocks, nil before they are known.
func (r *Reader) Layout() *guest.Layout { return r.layout }

// SyncMode returns the mode that the setup section showed.
func (r *Reader) SyncMode() SyncMode { return r.mode }

// Sections returns how many RAM sections came: the setup and about one for
// each pass over the dirty pages that was cut off by the rate limit.
func (r *Reader) Sections() int { return r.rounds }

// ReturnPath says whether the source opened the return path, and so waits for
// Shut.
func (r *Reader) ReturnPath() bool { return r.returnPath }

// Bytes returns how much of the stream was read.
func (r *Reader) Bytes() uint64 { return r.in.offset }

// ReadHead reads the header and the configuration.
func (r *Reader) ReadHead() (*Configuration, error) {
	r.in.tee = &r.head
	magic, version := r.in.u32(), r.in.u32()
	if r.in.err != nil {
		return nil, r.fail("header", r.in.err)
	}
	if magic != streamMagic {
		return nil, r.fail("header", fmt.Errorf("%w: magic %#08x (want %#08x, \"QEVM\")", ErrMalformed, magic, streamMagic))
	}
	if version != streamVersion {
		return nil, r.fail("header", fmt.Errorf("%w: version %d (want %d)", ErrMalformed, version, streamVersion))
	}
	if t := r.in.peek(); r.in.err == nil && t != sectionConfiguration {
		return nil, r.fail("configuration", fmt.Errorf("%w: section type %#02x (want %#02x); machine types that leave it out are too old", ErrMalformed, t, sectionConfiguration))
	}
	r.in.byte()
	c, err := readConfiguration(r.in)
	if err != nil {
		return nil, r.fail("configuration", err)
	}
	r.in.tee = nil
	r.config = c
	r.page = make([]byte, c.PageSize())
	return c, nil
}

// ParseHead reads what Head returned.
func ParseHead(head []byte) (*Configuration, error) {
	// A byte behind the head stands for the section that would follow.
	r := NewReader(bytes.NewReader(append(bytes.Clone(head), sectionStart)), nil, ReaderOptions{})
	c, err := r.ReadHead()
	if err != nil {
		return nil, err
	}
	if len(r.head) != len(head) {
		return nil, r.fail("configuration", fmt.Errorf("%w: %d bytes follow it", ErrMalformed, len(head)-len(r.head)))
	}
	return c, nil
}

// Run reads the stream behind its head up to its end. It does not tell the
// source so: see Shut.
func (r *Reader) Run(h Handler) error {
	r.h = h
	for {
		t := r.in.peek()
		if r.in.err != nil {
			return r.fail("section type", r.in.err)
		}
		if r.ramDone && (t == sectionFull || t == sectionEOF) {
			return r.readDevices()
		}
		r.in.byte()
		var err error
		switch t {
		case sectionStart, sectionFull:
			err = r.start(t)
		case sectionPart, sectionEnd:
			err = r.part(t)
		case sectionCommand:
			err = r.command()
		case sectionEOF:
			err = r.fail("section type", fmt.Errorf("%w: the stream ends before its RAM section does", ErrMalformed))
		default:
			err = r.fail("section type", fmt.Errorf("%w: %#02x", ErrMalformed, t))
		}
		if err != nil {
			return err
		}
	}
}

// start reads a START section, which has to be RAM's. The source of a FULL
// section amid RAM (virtio-mem) says its name, too.
func (r *Reader) start(t byte) error {
	id := r.in.u32()
	name := r.in.name()
	instance, version := r.in.u32(), r.in.u32()
	if r.in.err != nil {
		return r.fail("section header", r.in.err)
	}
	if t == sectionFull {
		return r.fail("section header", &SectionError{ID: name, Reason: "it comes before RAM is complete and carries no length, so it cannot be stepped over: unplug that device"})
	}
	if name != ramSection {
		return r.fail("section header", &SectionError{ID: name, Reason: "only RAM can be sent in parts, and a section carries no length to step over it: unplug that device, or turn the capability off that makes it"})
	}
	if r.ramBegun {
		return r.fail("section header", fmt.Errorf("%w: a second RAM section starts", ErrMalformed))
	}
	if instance != 0 || version != ramVersion {
		return r.fail("section header", fmt.Errorf("%w: RAM section instance %d version %d (want 0 and %d)", ErrMalformed, instance, version, ramVersion))
	}
	r.ramID, r.ramBegun = id, true
	r.rounds++
	if err := r.readSetup(); err != nil {
		return err
	}
	return r.footer()
}

func (r *Reader) part(t byte) error {
	id := r.in.u32()
	if r.in.err != nil {
		return r.fail("section header", r.in.err)
	}
	if r.layout == nil || id != r.ramID || r.ramDone {
		return r.fail("section header", fmt.Errorf("%w: part of section %d, which is not open", ErrMalformed, id))
	}
	r.rounds++
	if err := r.readRecords(); err != nil {
		return err
	}
	r.ramDone = t == sectionEnd
	return r.footer()
}

func (r *Reader) footer() error {
	t, id := r.in.byte(), r.in.u32()
	if r.in.err != nil {
		return r.fail("section footer", r.in.err)
	}
	if t != sectionFooter || id != r.ramID {
		return r.fail("section footer", fmt.Errorf("%w: %#02x, section %d (want %#02x, section %d)", ErrMalformed, t, id, sectionFooter, r.ramID))
	}
	return nil
}

// readCommand reads a command behind its section type.
func (r *Reader) readCommand() (Command, error) {
	id := CommandID(r.in.u16())
	n := int(r.in.u16())
	if r.in.err != nil {
		return Command{}, r.fail("command", r.in.err)
	}
	data := make([]byte, n)
	r.in.fill(data)
	if r.in.err != nil {
		return Command{}, r.fail("command", r.in.err)
	}
	return Command{id, data}, nil
}

func (r *Reader) command() error {
	c, err := r.readCommand()
	if err != nil {
		return err
	}
	if len(r.commands) == 1024 {
		return r.fail("command", fmt.Errorf("%w: more than %d commands", ErrMalformed, len(r.commands)))
	}
	r.commands = append(r.commands, c)
	switch id := c.ID; id {
	case CmdOpenReturnPath:
		return r.openReturnPath()
	case CmdPing:
		if len(c.Data) != 4 {
			return r.fail("command", fmt.Errorf("%w: a PING of %d bytes", ErrMalformed, len(c.Data)))
		}
		return r.answer(replyPong, c.Data)
	case CmdPostcopyAdvise, CmdSwitchoverStart:
		return nil
	case CmdPostcopyListen, CmdPostcopyRun, CmdPostcopyDiscard, CmdPackaged, CmdPostcopyResume, CmdRecvBitmap:
		return r.fail("command", &SectionError{ID: id.String(), Reason: "postcopy was started at the source; its pages come only when a guest asks for them"})
	case CmdEnableCOLO:
		return r.fail("command", &SectionError{ID: id.String(), Reason: "turn x-colo off at the source"})
	default:
		return r.fail("command", fmt.Errorf("%w: unknown %v", ErrMalformed, id))
	}
}

func (r *Reader) openReturnPath() error {
	if r.reply == nil {
		return r.fail("command", errors.New("the source opened the return path on a channel that cannot be written"))
	}
	r.returnPath = true
	if r.opts.SwitchoverAck {
		return r.answer(replySwitchoverAck, nil)
	}
	return nil
}

// answer writes one message of the return path.
func (r *Reader) answer(kind uint16, data []byte) error {
	if !r.returnPath {
		return nil // a PING without a return path asks for nothing
	}
	b := binary.BigEndian.AppendUint16(nil, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	if _, err := r.reply.Write(append(b, data...)); err != nil {
		return r.fail("return path", err)
	}
	return nil
}

// NextCommand reads a section that has to be a command, instead of Run or behind
// the end of the stream, where two sides can agree to talk on. QEMU sends
// nothing there. A PING is not answered. A source that closes the connection
// gives an error that wraps ErrTruncated.
func (r *Reader) NextCommand() (Command, error) {
	t := r.in.byte()
	if r.in.err != nil {
		return Command{}, r.fail("command", r.in.err)
	}
	if t != sectionCommand {
		return Command{}, r.fail("command", fmt.Errorf("%w: section type %#02x (want %#02x)", ErrMalformed, t, sectionCommand))
	}
	c, err := r.readCommand()
	if err == nil && c.ID == CmdOpenReturnPath {
		err = r.openReturnPath()
	}
	return c, err
}

// Pong writes a PONG that no PING asked for.
func (r *Reader) Pong(value uint32) error {
	return r.answer(replyPong, binary.BigEndian.AppendUint32(nil, value))
}

// Shut tells a source that opened the return path how it went, which is what
// it waits for; without a return path it does nothing.
func (r *Reader) Shut(ok bool) error {
	code := make([]byte, 4)
	if !ok {
		code[3] = 1
	}
	return r.answer(replyShut, code)
}

func (r *Reader) fail(field string, err error) error {
	var se *StreamError
	if errors.As(err, &se) {
		return err
	}
	return &StreamError{Offset: r.in.offset, Field: field, Err: err}
}
