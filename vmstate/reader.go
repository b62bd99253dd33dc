package vmstate

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/vmferry/vmferry/guest"
)

// DefaultMaxMemory is the default limit for the memory of a source's machine: 16 TiB.
const DefaultMaxMemory = 16 << 40

// Reader reads the main channel of one migration as events. It sends no replies; its
// owner handles PINGs and postcopy commands. Destination is such an owner. A Reader is
// used by one goroutine.
type Reader struct {
	in        *input
	maxMemory uint64

	config *Configuration
	head   []byte

	layout   *guest.Layout
	mode     SyncMode
	ramID    uint32
	ramDone  bool
	block    *guest.Block // of the previous page, for the flag CONTINUE
	page     []byte
	sections int

	next  func(*Reader) error // reads the next element, and may set event
	event Event
}

// NewReader returns a reader of r. maxMemory bounds the bytes of all RAM blocks
// together; 0 is DefaultMaxMemory. It is checked before anything is allocated for the
// blocks.
func NewReader(r io.Reader, maxMemory uint64) *Reader {
	if maxMemory == 0 {
		maxMemory = DefaultMaxMemory
	}
	return &Reader{in: newInput(r), maxMemory: maxMemory, next: (*Reader).readSection}
}

// Head returns the unchanged bytes of the header and configuration.
func (r *Reader) Head() []byte { return r.head }

// Configuration returns the parsed head, nil before ReadHead.
func (r *Reader) Configuration() *Configuration { return r.config }

// Layout returns the RAM blocks, nil before EventSetup.
func (r *Reader) Layout() *guest.Layout { return r.layout }

// SyncMode returns the sync mode, which is valid after EventSetup.
func (r *Reader) SyncMode() SyncMode { return r.mode }

// Sections returns the number of RAM sections so far: the setup, and one for each part
// of a pass over the dirty pages, as the source's rate limit divides it.
func (r *Reader) Sections() int { return r.sections }

// Bytes returns the number of bytes of the stream that were read.
func (r *Reader) Bytes() uint64 { return r.in.offset }

// ReadHead reads the header and the configuration. It is called once, before Next.
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
		return nil, r.fail("configuration", fmt.Errorf("%w: section type %#02x (want %#02x; machine types without a configuration section are too old)", ErrMalformed, t, sectionConfiguration))
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

// ParseHead parses the result of Head. It fails if other bytes follow the head.
func ParseHead(head []byte) (*Configuration, error) {
	// The byte after the head stands for the next section.
	r := NewReader(bytes.NewReader(append(bytes.Clone(head), sectionStart)), 0)
	c, err := r.ReadHead()
	if err != nil {
		return nil, err
	}
	if len(r.head) != len(head) {
		return nil, r.fail("configuration", fmt.Errorf("%w: %d bytes after the head", ErrMalformed, len(head)-len(r.head)))
	}
	return c, nil
}

// Next reads the next event. In the device state it returns io.EOF at the end of the
// file, and an error that wraps os.ErrDeadlineExceeded when a read deadline of the
// connection passes; Next can then be called again. After any other error it must not
// be called again. Other errors are of type *StreamError.
func (r *Reader) Next() (*Event, error) {
	r.event = Event{}
	for r.event.Kind == 0 {
		if err := r.next(r); err != nil {
			return nil, err
		}
	}
	return &r.event, nil
}

// readSection reads the beginning of the next section or command.
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
		return r.fail("section type", fmt.Errorf("%w: the stream ends before its RAM section", ErrMalformed))
	}
	return r.fail("section type", fmt.Errorf("%w: %#02x", ErrMalformed, t))
}

// readStart reads a START section, which must be RAM's. It also reads the header of a
// FULL section between the RAM sections (virtio-mem), to name the device in the error.
func (r *Reader) readStart(t byte) error {
	id := r.in.u32()
	name := r.in.name()
	instance, version := r.in.u32(), r.in.u32()
	if r.in.err != nil {
		return r.fail("section header", r.in.err)
	}
	if t == sectionFull {
		return r.fail("section header", &SectionError{ID: name, Reason: "a device section before the end of RAM cannot be skipped, because it has no length (unplug that device)"})
	}
	if name != ramSection {
		return r.fail("section header", &SectionError{ID: name, Reason: "an iterable section other than RAM cannot be skipped, because it has no length (unplug that device, or turn off the capability that adds the section)"})
	}
	if r.layout != nil {
		return r.fail("section header", fmt.Errorf("%w: second START section of RAM", ErrMalformed))
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

// readCommand reads a command after its type byte.
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

// readSyncPoint returns the sync point at the end of a section.
func (r *Reader) readSyncPoint() error {
	r.event = Event{Kind: EventSync}
	r.next = (*Reader).readFooter
	return nil
}

// readDevices returns the buffered bytes of device state, or reads more.
func (r *Reader) readDevices() error {
	if r.in.at == r.in.end {
		if err := r.in.refill(); err != nil {
			return err
		}
	}
	chunk := r.in.buf[r.in.at:r.in.end]
	r.in.offset += uint64(len(chunk))
	r.in.at, r.in.end = 0, 0
	r.event = Event{Kind: EventDevices, Data: chunk}
	return nil
}

// NextCommand reads a section that must be a command. It is called instead of Next
// after the head, or after the end of the stream, where a handover between Go programs
// continues; QEMU sends nothing there. When the source closes the connection, the error
// wraps ErrTruncated.
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

// fail adds the position in the stream to an error.
func (r *Reader) fail(field string, err error) error {
	var se *StreamError
	if errors.As(err, &se) {
		return err
	}
	return &StreamError{Offset: r.in.offset, Field: field, Err: err}
}
