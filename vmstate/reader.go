package vmstate

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/vmferry/vmferry/guest"
)

// DefaultMaxMemory is how much memory a source's machine may have: 16 TiB.
const DefaultMaxMemory = 16 << 40

// Reader reads the main channel of one migration as events. It answers nothing and
// decides nothing: what a PING or a command of postcopy means is its owner's. A
// Destination is an owner.
type Reader struct {
	in        *input
	maxMemory uint64

	config *Configuration
	head   []byte

	layout   *guest.Layout
	mode     SyncMode
	ramID    uint32
	ramDone  bool
	block    *guest.Block // for CONTINUE
	page     []byte
	sections int

	next  func(*Reader) error // reads on, and sets event where there is one
	event Event
}

// NewReader returns a reader of r. maxMemory bounds the bytes of all RAM blocks
// together, before anything is made for them; 0 is DefaultMaxMemory.
func NewReader(r io.Reader, maxMemory uint64) *Reader {
	if maxMemory == 0 {
		maxMemory = DefaultMaxMemory
	}
	return &Reader{in: newInput(r), maxMemory: maxMemory, next: (*Reader).readSection}
}

// Head returns the header and configuration as they came.
func (r *Reader) Head() []byte { return r.head }

// Configuration returns what the head says, nil before it was read.
func (r *Reader) Configuration() *Configuration { return r.config }

// Layout returns the RAM blocks, nil before they are known.
func (r *Reader) Layout() *guest.Layout { return r.layout }

// SyncMode returns the mode that the setup section showed.
func (r *Reader) SyncMode() SyncMode { return r.mode }

// Sections returns how many RAM sections came: the setup, and about one for each pass
// over the dirty pages that the rate limit cut off.
func (r *Reader) Sections() int { return r.sections }

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
	r := NewReader(bytes.NewReader(append(bytes.Clone(head), sectionStart)), 0)
	c, err := r.ReadHead()
	if err != nil {
		return nil, err
	}
	if len(r.head) != len(head) {
		return nil, r.fail("configuration", fmt.Errorf("%w: %d bytes follow it", ErrMalformed, len(head)-len(r.head)))
	}
	return c, nil
}

// Next reads the next event. In the device state it returns io.EOF at the end of the
// file, and an error that wraps os.ErrDeadlineExceeded when a deadline of the
// connection passes, after which it can be called again. Errors of all other kinds end
// the reading.
func (r *Reader) Next() (*Event, error) {
	r.event = Event{}
	for r.event.Kind == 0 {
		if err := r.next(r); err != nil {
			return nil, err
		}
	}
	return &r.event, nil
}

// readSection reads what begins behind the head or a section.
func (r *Reader) readSection() error {
	t := r.in.peek()
	if r.in.err != nil {
		return r.fail("section type", r.in.err)
	}
	if r.ramDone && (t == sectionFull || t == sectionEOF) {
		r.next = (*Reader).readDevices
		return nil
	}
	r.in.byte()
	switch t {
	case sectionStart, sectionFull:
		return r.readStart(t)
	case sectionPart, sectionEnd:
		return r.readPart(t)
	case sectionCommand:
		c, err := r.readCommand()
		r.event = Event{Kind: EventCommand, Command: c}
		return err
	case sectionEOF:
		return r.fail("section type", fmt.Errorf("%w: the stream ends before its RAM section does", ErrMalformed))
	}
	return r.fail("section type", fmt.Errorf("%w: %#02x", ErrMalformed, t))
}

// readStart reads a START section, which has to be RAM's. A FULL section between those
// of RAM (virtio-mem) names its device, too.
func (r *Reader) readStart(t byte) error {
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
	if r.layout != nil {
		return r.fail("section header", fmt.Errorf("%w: a second RAM section starts", ErrMalformed))
	}
	if instance != 0 || version != ramVersion {
		return r.fail("section header", fmt.Errorf("%w: RAM section instance %d version %d (want 0 and %d)", ErrMalformed, instance, version, ramVersion))
	}
	r.ramID = id
	r.sections++
	return r.readSetup()
}

// readPart begins a section of pages.
func (r *Reader) readPart(t byte) error {
	id := r.in.u32()
	if r.in.err != nil {
		return r.fail("section header", r.in.err)
	}
	if r.layout == nil || id != r.ramID || r.ramDone {
		return r.fail("section header", fmt.Errorf("%w: part of section %d, which is not open", ErrMalformed, id))
	}
	r.sections++
	r.ramDone = t == sectionEnd
	r.event = Event{Kind: EventSection, Last: r.ramDone}
	r.next = (*Reader).readRecord
	return nil
}

// readFooter ends a section.
func (r *Reader) readFooter() error {
	r.event = Event{Kind: EventSectionEnd}
	r.next = (*Reader).readSection
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

// readSyncPoint is the sync point that is the end of a section.
func (r *Reader) readSyncPoint() error {
	r.event = Event{Kind: EventSync}
	r.next = (*Reader).readFooter
	return nil
}

// readDevices reads the bytes of device state that are there, or waits for some.
func (r *Reader) readDevices() error {
	if r.in.at == r.in.end {
		if err := r.in.more(); err != nil {
			return err
		}
	}
	chunk := r.in.buf[r.in.at:r.in.end]
	r.in.offset += uint64(len(chunk))
	r.in.at, r.in.end = 0, 0
	r.event = Event{Kind: EventDevices, Data: chunk}
	return nil
}

// NextCommand reads a section that has to be a command, behind the head in place of
// Next, or behind the end of the stream, where two sides can agree to talk on. QEMU
// sends nothing there. A source that closes the connection gives an error that wraps
// ErrTruncated.
func (r *Reader) NextCommand() (Command, error) {
	t := r.in.byte()
	if r.in.err != nil {
		return Command{}, r.fail("command", r.in.err)
	}
	if t != sectionCommand {
		return Command{}, r.fail("command", fmt.Errorf("%w: section type %#02x (want %#02x)", ErrMalformed, t, sectionCommand))
	}
	return r.readCommand()
}

// fail says where in the stream an error is.
func (r *Reader) fail(field string, err error) error {
	var se *StreamError
	if errors.As(err, &se) {
		return err
	}
	return &StreamError{Offset: r.in.offset, Field: field, Err: err}
}
