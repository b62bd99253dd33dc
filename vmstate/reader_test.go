package vmstate_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/vmstate"
)

func TestReader_NamesUnsupportedSections(t *testing.T) {
	for _, tt := range []struct {
		name   string
		stream *stream
		id     string
	}{
		{"dirty bitmaps", new(stream).head().section(0x01, 7, "dirty-bitmap", 0, 1), "dirty-bitmap"},
		{"VFIO beside RAM", new(stream).ready().section(0x01, 7, "0000:00:05.0/vfio", 0, 1), "0000:00:05.0/vfio"},
		{"VFIO behind RAM", new(stream).ready().emptyEnd().section(0x01, 7, "0000:00:05.0/vfio", 0, 1), "0000:00:05.0/vfio"},
		{"virtio-mem before RAM is complete", new(stream).ready().section(0x04, 7, "0000:00:02.0/virtio-mem-device-early", 0, 1), "0000:00:02.0/virtio-mem-device-early"},
		{"a device before RAM's setup", new(stream).head().section(0x04, 7, "timer", 0, 1), "timer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.stream.raw(make([]byte, 32)...)
			_, err := read(bytes.NewReader(s.b), io.Discard, vmstate.DestinationOptions{}, new(notebook))
			wantStreamError(t, err, vmstate.ErrUnsupported, "section header", tt.id)
			var se *vmstate.SectionError
			if !errors.As(err, &se) || se.ID != tt.id || se.Reason == "" {
				t.Errorf("%v does not name the section %q", err, tt.id)
			}
		})
	}
}

func TestReader_RefusesSectionsOutOfOrder(t *testing.T) {
	for _, tt := range []struct {
		name   string
		stream *stream
		field  string
		says   string
	}{
		{"a part before the setup", new(stream).head().part(), "section header", "not open"},
		{"an end before the setup", new(stream).head().end(), "section header", "not open"},
		{"a part of another section", new(stream).ready().u8(0x02).u32(9), "section header", "section 9"},
		{"a part after the end", new(stream).ready().emptyEnd().part(), "section header", "not open"},
		{"the end of the stream before RAM's", new(stream).ready().u8(0x00), "section type", "before its RAM"},
		{"a section type that is none", new(stream).ready().u8(0x55), "section type", "0x55"},
		{"a description before the end", new(stream).ready().u8(0x06), "section type", "0x06"},
		{"a second configuration", new(stream).ready().u8(0x07), "section type", "0x07"},
		{"another section's footer", new(stream).ready().part().u64(0x10).footer(1), "section footer", "section 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.stream.raw(make([]byte, 32)...)
			_, err := read(bytes.NewReader(s.b), io.Discard, vmstate.DestinationOptions{}, new(notebook))
			wantStreamError(t, err, vmstate.ErrMalformed, tt.field, tt.says)
		})
	}
}

func TestDestination_KeepsAndAnswersCommands(t *testing.T) {
	s := new(stream).head().command(1).command(2, 0, 0, 0, 1).command(3, make([]byte, 16)...).
		setup(true, twoBlocks...).command(2, 0xde, 0xad, 0xbe, 0xef).command(11).emptyEnd().devices()
	for _, ack := range []bool{false, true} {
		var reply bytes.Buffer
		r, err := read(bytes.NewReader(s.b), &reply, vmstate.DestinationOptions{SwitchoverAck: ack}, new(notebook))
		if err != nil {
			t.Fatal(err)
		}
		want := []byte{0, 2, 0, 4, 0, 0, 0, 1, 0, 2, 0, 4, 0xde, 0xad, 0xbe, 0xef}
		if ack {
			want = append([]byte{0, 7, 0, 0}, want...)
		}
		if !bytes.Equal(reply.Bytes(), want) {
			t.Errorf("answers %x, want %x", reply.Bytes(), want)
		}
		if !r.ReturnPath() {
			t.Error("the return path was opened and is not")
		}
		commands := []vmstate.Command{
			{ID: vmstate.CmdOpenReturnPath, Data: []byte{}}, {ID: vmstate.CmdPing, Data: []byte{0, 0, 0, 1}}, {ID: vmstate.CmdPostcopyAdvise, Data: make([]byte, 16)},
			{ID: vmstate.CmdPing, Data: []byte{0xde, 0xad, 0xbe, 0xef}}, {ID: vmstate.CmdSwitchoverStart, Data: []byte{}},
		}
		if diff := cmp.Diff(commands, r.Commands()); diff != "" {
			t.Errorf("commands (-want +got):\n%s", diff)
		}
	}
}

func TestDestination_ShutReportsTheResult(t *testing.T) {
	s := new(stream).head().command(1).setup(true, twoBlocks...).emptyEnd().devices()
	for ok, want := range map[bool][]byte{true: {0, 1, 0, 4, 0, 0, 0, 0}, false: {0, 1, 0, 4, 0, 0, 0, 1}} {
		var reply bytes.Buffer
		r, err := read(bytes.NewReader(s.b), &reply, vmstate.DestinationOptions{}, new(notebook))
		if err := errors.Join(err, r.Shut(ok)); err != nil || !bytes.Equal(reply.Bytes(), want) {
			t.Errorf("%v: %x, want %x (%v)", ok, reply.Bytes(), want, err)
		}
	}
}

func TestDestination_NoRepliesWithoutReturnPath(t *testing.T) {
	s := new(stream).head().command(2, 0, 0, 0, 1).setup(true, twoBlocks...).emptyEnd().devices()
	r, err := read(bytes.NewReader(s.b), refusingWriter{}, vmstate.DestinationOptions{SwitchoverAck: true}, new(notebook))
	if err := errors.Join(err, r.Shut(true)); err != nil {
		t.Fatal(err)
	}
}

func TestDestination_NamesUnsupportedCommands(t *testing.T) {
	for id, name := range map[uint16]string{4: "POSTCOPY_LISTEN", 5: "POSTCOPY_RUN", 6: "POSTCOPY_RAM_DISCARD", 7: "PACKAGED", 8: "ENABLE_COLO", 9: "POSTCOPY_RESUME", 10: "RECV_BITMAP"} {
		s := new(stream).ready().command(id, 0, 0, 0, 0)
		_, err := read(bytes.NewReader(s.b), io.Discard, vmstate.DestinationOptions{}, new(notebook))
		wantStreamError(t, err, vmstate.ErrUnsupported, "command", name)
	}
}

func TestDestination_RefusesMalformedCommands(t *testing.T) {
	endless := new(stream).head()
	for range 1025 {
		endless.command(2, 0, 0, 0, 0)
	}
	for _, tt := range []struct {
		name   string
		stream *stream
		says   string
	}{
		{"an unknown one", new(stream).head().command(12), "command 12"},
		{"number 0", new(stream).head().command(0), "command 0"},
		{"the highest number", new(stream).head().command(0xffff), "command 65535"},
		{"a PING without a number", new(stream).head().command(2), "PING of 0 bytes"},
		{"a PING of 8 bytes", new(stream).head().command(2, make([]byte, 8)...), "PING of 8 bytes"},
		{"too many", endless, "more than 1024"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := read(bytes.NewReader(tt.stream.b), io.Discard, vmstate.DestinationOptions{}, new(notebook))
			wantStreamError(t, err, vmstate.ErrMalformed, "command", tt.says)
		})
	}
}

func TestDestination_ReturnPathNeedsAWriter(t *testing.T) {
	_, err := read(bytes.NewReader(new(stream).head().command(1).b), nil, vmstate.DestinationOptions{}, new(notebook))
	if err == nil || !strings.Contains(err.Error(), "return path") {
		t.Errorf("got %v", err)
	}
}

func TestDestination_ReplyErrorEndsRun(t *testing.T) {
	a, b := net.Pipe()
	a.Close()
	s := new(stream).head().command(1).command(2, 0, 0, 0, 1)
	_, err := read(bytes.NewReader(s.b), b, vmstate.DestinationOptions{}, new(notebook))
	wantStreamError(t, err, io.ErrClosedPipe, "return path", "")
}

// TestReader_TruncatedAtEveryByte cuts at every byte except inside
// RAM pages.
func TestReader_TruncatedAtEveryByte(t *testing.T) {
	s := new(stream).head().sub("configuration/target-page-bits").u32(12).command(2, 0, 0, 0, 1).
		setup(true, block{"a", 2 << 20, 2 << 20}, block{"b", 4096, 0}).
		part().u64(0x08).name("a").page(1).u64(0x1000 | 0x22).u8(0).u64(0x200).endOfPart().
		emptyEnd().devices()
	page := bytes.Index(s.b, bytes.Repeat([]byte{1}, pageSize))
	for n := 0; n < len(s.b); n++ {
		if n > page+100 && n < page+pageSize-100 {
			continue
		}
		_, err := read(bytes.NewReader(s.b[:n]), io.Discard, vmstate.DestinationOptions{}, new(notebook))
		var se *vmstate.StreamError
		if !errors.Is(err, vmstate.ErrTruncated) || !errors.As(err, &se) || se.Offset > uint64(n) {
			t.Fatalf("after %d bytes of %d: %v", n, len(s.b), err)
		}
	}
	if _, err := read(bytes.NewReader(s.b), io.Discard, vmstate.DestinationOptions{}, new(notebook)); err != nil {
		t.Fatalf("whole: %v", err)
	}
}

func TestReader_AcceptsReadsOfAnySize(t *testing.T) {
	s := new(stream).ready().part().u64(0x08).name("pc.ram").page(1).u64(0x1000 | 0x22).u8(0).u64(0x200).endOfPart().emptyEnd().devices()
	_, want := readAll(t, s)
	for name, cut := range map[string]func(io.Reader) io.Reader{"a byte at a time": iotest.OneByteReader, "halves": iotest.HalfReader, "with the end": iotest.DataErrReader} {
		var l notebook
		r, err := read(cut(bytes.NewReader(s.b)), io.Discard, vmstate.DestinationOptions{}, &l)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, l.lines); diff != "" || !bytes.HasSuffix(s.b, r.Devices()) {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestReader_ConnectionErrorIsNotTruncation(t *testing.T) {
	boom := errors.New("boom")
	whole := new(stream).ready().part().u64(0x08).name("pc.ram").page(1).endOfPart().emptyEnd().devices().b
	for _, n := range []int{0, 6, 20, 60, 200, len(whole) - 5} {
		_, err := read(io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(boom)), io.Discard, vmstate.DestinationOptions{}, new(notebook))
		if !errors.Is(err, boom) || errors.Is(err, vmstate.ErrTruncated) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

// refusingWriter fails at every write.
type refusingWriter struct{}

func (refusingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
