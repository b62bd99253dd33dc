package vmstate

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/vmferry/vmferry/guest"
)

// Writer writes the main channel of one migration. The order of calls is: Head,
// Command any number of times, Setup, any number of sections (BeginSection, pages,
// EndSection), Devices. Output is buffered; the methods that flush say so. All calls
// after an error return the same error. A Writer is not safe for concurrent use.
type Writer struct {
	w      *bufio.Writer
	layout *guest.Layout
	mode   SyncMode
	block  *guest.Block
	err    error
	bytes  uint64
	tmp    [16]byte
}

// NewWriter returns a writer to w. layout and mode are used from Setup on.
func NewWriter(w io.Writer, layout *guest.Layout, mode SyncMode) *Writer {
	return &Writer{w: bufio.NewWriterSize(w, 64<<10), layout: layout, mode: mode}
}

// ramSectionID is the id of the RAM section. QEMU numbers sections from 0 in the order
// of registration, and accepts any id that all parts of the section have.
const ramSectionID = 1

// Bytes returns the number of bytes written, including buffered ones.
func (w *Writer) Bytes() uint64 { return w.bytes }

// Flush writes the buffered bytes.
func (w *Writer) Flush() error {
	if w.err == nil {
		w.err = w.w.Flush()
	}
	return w.wrap()
}

func (w *Writer) wrap() error {
	if w.err == nil {
		return nil
	}
	return fmt.Errorf("main channel: writing (%d bytes so far): %w", w.bytes, w.err)
}

func (w *Writer) raw(b []byte) {
	if w.err != nil {
		return
	}
	n, err := w.w.Write(b)
	w.bytes += uint64(n)
	w.err = err
}

func (w *Writer) u8(v byte)    { w.tmp[0] = v; w.raw(w.tmp[:1]) }
func (w *Writer) u16(v uint16) { binary.BigEndian.PutUint16(w.tmp[:], v); w.raw(w.tmp[:2]) }
func (w *Writer) u32(v uint32) { binary.BigEndian.PutUint32(w.tmp[:], v); w.raw(w.tmp[:4]) }
func (w *Writer) u64(v uint64) { binary.BigEndian.PutUint64(w.tmp[:], v); w.raw(w.tmp[:8]) }
func (w *Writer) name(s string) {
	w.u8(byte(len(s)))
	w.raw([]byte(s))
}

// Head writes the header and configuration, the result of Reader.Head or
// Configuration.Head.
func (w *Writer) Head(head []byte) error {
	w.raw(head)
	return w.wrap()
}

// Command writes a command.
func (w *Writer) Command(c Command) error {
	w.u8(sectionCommand)
	w.u16(uint16(c.ID))
	w.u16(uint16(len(c.Data)))
	w.raw(c.Data)
	return w.wrap()
}

// Event writes an event of a Reader. The head must be written before. Event flushes
// after each section, each command, and each piece of device state.
func (w *Writer) Event(e *Event) error {
	switch e.Kind {
	case EventSetup:
		w.layout, w.mode = e.Layout, e.Mode
		return w.StartSection(func(b *guest.Block) error {
			if b.HugePage != 0 {
				w.u64(b.HugePage)
			}
			return w.wrap()
		})
	case EventSection:
		return w.BeginSection(e.Last)
	case EventSync:
		if w.mode == SyncPerRound {
			w.u64(ramFlush)
		}
		return w.wrap() // in SyncPerSection the end of the section is the sync point
	case EventSectionEnd:
		return w.EndFileSection()
	case EventZero:
		return w.Zero(e.Block, e.Offset)
	case EventPage:
		return w.Page(e.Block, e.Offset, e.Data)
	case EventCommand:
		w.Command(e.Command)
		return w.Flush()
	case EventDevices:
		return w.Devices(e.Data)
	}
	return fmt.Errorf("main channel: writing an event of unknown kind %d", e.Kind)
}

// Setup writes the START section with the RAM blocks and flushes. It is a sync
// point: every multifd channel must send a SYNC.
func (w *Writer) Setup() error {
	w.StartSection(nil)
	if w.mode == SyncPerRound {
		w.u64(ramFlush)
	}
	w.endSection()
	return w.Flush()
}

// StartSection writes the START section without its end-of-section record. after, if
// not nil, is called after each block, to write additional fields, such as those of a
// file.
func (w *Writer) StartSection(after func(b *guest.Block) error) error {
	w.u8(sectionStart)
	w.u32(ramSectionID)
	w.name(ramSection)
	w.u32(0)
	w.u32(ramVersion)
	w.u64(w.layout.Size() | ramMemSize)
	for _, b := range w.layout.Blocks {
		w.name(b.Name)
		w.u64(b.Length)
		if after != nil && w.err == nil {
			if err := after(b); err != nil {
				return err
			}
		}
	}
	return w.wrap()
}

// BeginSection begins a section of pages; last is set for the last one.
func (w *Writer) BeginSection(last bool) error {
	t := byte(sectionPart)
	if last {
		t = sectionEnd
	}
	w.u8(t)
	w.u32(ramSectionID)
	w.block = nil
	return w.wrap()
}

// Zero writes the record of a zero page; offset is its byte offset in b.
func (w *Writer) Zero(b *guest.Block, offset uint64) error {
	if b == w.block {
		w.u64(offset | ramZero | ramContinue)
	} else {
		w.u64(offset | ramZero)
		w.name(b.Name)
		w.block = b
	}
	w.u8(0)
	return w.wrap()
}

// Page writes a page with its content data, of one page size, into the main channel;
// offset is its byte offset in b.
func (w *Writer) Page(b *guest.Block, offset uint64, data []byte) error {
	if b == w.block {
		w.u64(offset | ramPage | ramContinue)
	} else {
		w.u64(offset | ramPage)
		w.name(b.Name)
		w.block = b
	}
	w.raw(data)
	return w.wrap()
}

// EndSection ends a section with a sync point and flushes: every multifd channel must
// send a SYNC.
func (w *Writer) EndSection() error {
	if w.mode == SyncPerRound {
		w.u64(ramFlush)
	}
	w.endSection()
	return w.Flush()
}

// EndFileSection ends a section without a sync point, as in a file, and flushes.
func (w *Writer) EndFileSection() error {
	w.endSection()
	return w.Flush()
}

func (w *Writer) endSection() {
	w.u64(ramEOS)
	w.u8(sectionFooter)
	w.u32(ramSectionID)
}

// Devices writes device state, the result of Destination.Devices or a piece of it, and
// flushes.
func (w *Writer) Devices(devices []byte) error {
	w.raw(devices)
	return w.Flush()
}
