package vmstate_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/vmstate"
)

const pageSize = 4096

// stream is a main channel built without the code under test.
type stream struct{ b []byte }

func (s *stream) u8(v byte) *stream     { s.b = append(s.b, v); return s }
func (s *stream) u16(v uint16) *stream  { s.b = binary.BigEndian.AppendUint16(s.b, v); return s }
func (s *stream) u32(v uint32) *stream  { s.b = binary.BigEndian.AppendUint32(s.b, v); return s }
func (s *stream) u64(v uint64) *stream  { s.b = binary.BigEndian.AppendUint64(s.b, v); return s }
func (s *stream) raw(b ...byte) *stream { s.b = append(s.b, b...); return s }
func (s *stream) name(n string) *stream { return s.u8(byte(len(n))).raw([]byte(n)...) }

func (s *stream) header() *stream { return s.u32(0x5145564d).u32(3) }

func (s *stream) configuration(machine string) *stream {
	return s.u8(0x07).u32(uint32(len(machine))).raw([]byte(machine)...)
}

func (s *stream) sub(name string) *stream { return s.u8(0x05).name(name).u32(1) }

func (s *stream) head() *stream { return s.header().configuration("pc-q35-10.0") }

// section begins a START or FULL section.
func (s *stream) section(kind byte, id uint32, name string, instance, version uint32) *stream {
	return s.u8(kind).u32(id).name(name).u32(instance).u32(version)
}

func (s *stream) footer(id uint32) *stream { return s.u8(0x7e).u32(id) }

type block struct {
	name         string
	length, huge uint64
}

var twoBlocks = []block{{"pc.ram", 16 * pageSize, 0}, {"vga.vram", 4 * pageSize, 0}}

const ramID = 2

// setup is RAM's START section; flush selects SyncPerRound.
func (s *stream) setup(flush bool, blocks ...block) *stream {
	var total uint64
	for _, b := range blocks {
		total += b.length
	}
	s.section(0x01, ramID, "ram", 0, 4).u64(total | 0x04)
	for _, b := range blocks {
		s.name(b.name).u64(b.length)
		if b.huge != 0 {
			s.u64(b.huge)
		}
	}
	if flush {
		s.u64(0x200)
	}
	return s.u64(0x10).footer(ramID)
}

func (s *stream) part() *stream       { return s.u8(0x02).u32(ramID) }
func (s *stream) end() *stream        { return s.u8(0x03).u32(ramID) }
func (s *stream) endOfPart() *stream  { return s.u64(0x10).footer(ramID) }
func (s *stream) emptyEnd() *stream   { return s.end().endOfPart() }
func (s *stream) ready() *stream      { return s.head().setup(true, twoBlocks...) }
func (s *stream) page(c byte) *stream { return s.raw(bytes.Repeat([]byte{c}, pageSize)...) }

func (s *stream) command(id uint16, data ...byte) *stream {
	return s.u8(0x08).u16(id).u16(uint16(len(data))).raw(data...)
}

// device is a FULL section; description is what ends a stream.
func (s *stream) device(id uint32, name string, data ...byte) *stream {
	return s.section(0x04, id, name, 0, 1).raw(data...).footer(id)
}

func (s *stream) description(json string) *stream {
	return s.u8(0x00).u8(0x06).u32(uint32(len(json))).raw([]byte(json)...)
}

const someJSON = `{"page_size": 4096, "devices": [{"name": "timer", "instance_id": 0, "vmsd_name": "timer", "version": 2}, {"name": "serial", "instance_id": 0, "vmsd_name": "serial", "version": 3}]}`

func (s *stream) devices() *stream {
	return s.device(3, "timer", 1, 2, 3).device(4, "serial", 0).description(someJSON)
}

// notebook is a Handler that records its events.
type notebook struct {
	lines []string
	fail  string // the call to fail at
}

var errHandler = errors.New("the handler refuses")

func (l *notebook) note(format string, args ...any) error {
	line := fmt.Sprintf(format, args...)
	l.lines = append(l.lines, line)
	if l.fail != "" && strings.HasPrefix(line, l.fail) {
		return errHandler
	}
	return nil
}

func (l *notebook) Setup(layout *guest.Layout, mode vmstate.SyncMode) error {
	var blocks []string
	for _, b := range layout.Blocks {
		text := fmt.Sprintf("%s %d", b.Name, b.Length)
		if b.HugePage != 0 {
			text += fmt.Sprintf(" of %d", b.HugePage)
		}
		blocks = append(blocks, text)
	}
	return l.note("setup %s, sync per %s", strings.Join(blocks, ", "), mode)
}

func (l *notebook) SyncPoint() error { return l.note("sync") }

func (l *notebook) Zero(b *guest.Block, offset uint64) error {
	return l.note("zero %s %#x", b.Name, offset)
}

func (l *notebook) Page(b *guest.Block, offset uint64, data []byte) error {
	if len(data) != pageSize || !bytes.Equal(data, bytes.Repeat(data[:1], len(data))) {
		return l.note("page %s %#x of %d mixed bytes", b.Name, offset, len(data))
	}
	return l.note("page %s %#x of %#02x", b.Name, offset, data[0])
}

// read runs a reader over a whole stream.
func read(r io.Reader, reply io.Writer, opts vmstate.DestinationOptions, h vmstate.Handler) (*vmstate.Destination, error) {
	rd := vmstate.NewDestination(r, reply, opts)
	if _, err := rd.ReadHead(); err != nil {
		return rd, err
	}
	return rd, rd.Run(h)
}

func readAll(t testing.TB, s *stream) (*vmstate.Destination, []string) {
	t.Helper()
	var l notebook
	r, err := read(bytes.NewReader(s.b), io.Discard, vmstate.DestinationOptions{}, &l)
	if err != nil {
		t.Fatal(err)
	}
	if r.Bytes() != uint64(len(s.b)) {
		t.Errorf("%d bytes read of %d", r.Bytes(), len(s.b))
	}
	return r, l.lines
}

func wantStreamError(t testing.TB, err, is error, field, says string) {
	t.Helper()
	var se *vmstate.StreamError
	if !errors.Is(err, is) || !errors.As(err, &se) {
		t.Fatalf("got %v, want a StreamError that wraps %q", err, is)
	}
	if se.Field != field || !strings.Contains(err.Error(), says) {
		t.Errorf("field %q in %q; want field %q, and it should say %q", se.Field, err, field, says)
	}
}
