package vmstate_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/vmstate"
)

func TestReadHead_ReadsAllSubsections(t *testing.T) {
	uuid := [16]byte{1, 2, 3, 15: 9}
	for _, tt := range []struct {
		name   string
		stream *stream
		want   vmstate.Configuration
		size   int
	}{
		{"the machine alone", new(stream).head(), vmstate.Configuration{Machine: "pc-q35-10.0"}, 4096},
		{"a machine without a name", new(stream).header().configuration(""), vmstate.Configuration{}, 4096},
		{"page bits", new(stream).head().sub("configuration/target-page-bits").u32(16), vmstate.Configuration{Machine: "pc-q35-10.0", PageBits: 16}, 65536},
		{"capabilities", new(stream).head().sub("configuration/capabilities").u32(2).name("a").name("b"), vmstate.Configuration{Machine: "pc-q35-10.0", Capabilities: []string{"a", "b"}}, 4096},
		{"uuid", new(stream).head().sub("configuration/uuid").raw(uuid[:]...), vmstate.Configuration{Machine: "pc-q35-10.0", UUID: uuid, HasUUID: true}, 4096},
		{"all", new(stream).head().sub("configuration/target-page-bits").u32(12).sub("configuration/capabilities").u32(1).name("x").sub("configuration/uuid").raw(uuid[:]...),
			vmstate.Configuration{Machine: "pc-q35-10.0", PageBits: 12, Capabilities: []string{"x"}, UUID: uuid, HasUUID: true}, 4096},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := vmstate.NewDestination(bytes.NewReader(append(slices.Clone(tt.stream.b), 0x01)), nil, vmstate.DestinationOptions{})
			got, err := r.ReadHead()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, *got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got.PageSize() != tt.size {
				t.Errorf("pages of %d bytes, want %d", got.PageSize(), tt.size)
			}
			if !bytes.Equal(r.Head(), tt.stream.b) {
				t.Error("the head is not kept byte for byte")
			}
			if !bytes.Equal(got.Head(), tt.stream.b) {
				t.Errorf("written again it is\n%x, want\n%x", got.Head(), tt.stream.b)
			}
			back, err := vmstate.ParseHead(r.Head())
			if err != nil || !cmp.Equal(back, got) {
				t.Errorf("parsed again: %+v, %v", back, err)
			}
		})
	}
}

func TestReadHead_RefusesMalformedConfigurations(t *testing.T) {
	for _, tt := range []struct {
		name   string
		stream *stream
		field  string
		says   string
	}{
		{"another magic", new(stream).u32(0x11223344).u32(3), "header", "0x11223344"},
		{"version 2", new(stream).u32(0x5145564d).u32(2), "header", "version 2"},
		{"no configuration", new(stream).header().u8(1), "configuration", "0x01"},
		{"a machine name of 4 GiB", new(stream).header().u8(7).u32(^uint32(0)), "configuration", "4294967295"},
		{"a machine name that is not UTF-8", new(stream).header().configuration("pc-\xff"), "configuration", `"pc-\xff" is not UTF-8`},
		{"a machine name of 256 bytes", new(stream).header().configuration(strings.Repeat("x", 256)), "configuration", "256"},
		{"an unknown subsection", new(stream).head().sub("configuration/colour").u32(1), "configuration", `"configuration/colour"`},
		{"a subsection of version 2", new(stream).head().u8(5).name("configuration/uuid").u32(2), "configuration", "version 2"},
		{"page bits 9", new(stream).head().sub("configuration/target-page-bits").u32(9), "configuration", "9"},
		{"page bits 17", new(stream).head().sub("configuration/target-page-bits").u32(17), "configuration", "17"},
		{"page bits 4 Gi", new(stream).head().sub("configuration/target-page-bits").u32(^uint32(0)), "configuration", "bits"},
		{"257 capabilities", new(stream).head().sub("configuration/capabilities").u32(257), "configuration", "257"},
		{"a subsection twice", new(stream).head().sub("configuration/target-page-bits").u32(12).sub("configuration/target-page-bits").u32(12), "configuration", "duplicate"},
		{"capabilities twice", new(stream).head().sub("configuration/capabilities").u32(0).sub("configuration/capabilities").u32(0), "configuration", "duplicate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := vmstate.NewDestination(bytes.NewReader(append(tt.stream.b, 0x01)), nil, vmstate.DestinationOptions{}).ReadHead()
			wantStreamError(t, err, vmstate.ErrMalformed, tt.field, tt.says)
		})
	}
}

func TestReadHead_NamesUnsupportedCapabilities(t *testing.T) {
	for _, name := range []string{"x-ignore-shared", "mapped-ram"} {
		s := new(stream).head().sub("configuration/capabilities").u32(1).name(name).u8(1)
		_, err := vmstate.NewDestination(bytes.NewReader(s.b), nil, vmstate.DestinationOptions{}).ReadHead()
		wantStreamError(t, err, vmstate.ErrUnsupported, "configuration", name)
		var se *vmstate.SectionError
		if !errors.As(err, &se) || !strings.Contains(se.Reason, "turn it off") {
			t.Errorf("%v does not say what to do", err)
		}
	}
}

func TestParseHead_RefusesBytesAfterTheHead(t *testing.T) {
	head := new(stream).head().b
	if _, err := vmstate.ParseHead(append(slices.Clone(head), 1, 2)); !errors.Is(err, vmstate.ErrMalformed) {
		t.Errorf("with bytes behind it: %v", err)
	}
	for n := range head {
		if _, err := vmstate.ParseHead(head[:n]); err == nil {
			t.Errorf("the first %d of %d bytes were taken", n, len(head))
		}
	}
}

func TestWithCapability_AddsACapability(t *testing.T) {
	uuid := [16]byte{5}
	head := (&vmstate.Configuration{Machine: "pc-q35-9.0", PageBits: 12, Capabilities: []string{"other"}, UUID: uuid, HasUUID: true}).Head()
	got, err := vmstate.WithCapability(head, "mapped-ram")
	if err != nil {
		t.Fatal(err)
	}
	want := new(stream).header().configuration("pc-q35-9.0").sub("configuration/target-page-bits").u32(12).
		sub("configuration/capabilities").u32(2).name("other").name("mapped-ram").sub("configuration/uuid").raw(uuid[:]...).b
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%x, want\n%x", got, want)
	}
	same, err := vmstate.WithCapability(head, "other")
	if err != nil || !bytes.Equal(same, head) {
		t.Errorf("adding what is there: %x, %v", same, err)
	}
	if _, err := vmstate.WithCapability(head[:20], "mapped-ram"); err == nil {
		t.Error("half a head was taken")
	}
}

func TestReadHead_TruncatedAtEveryByte(t *testing.T) {
	s := new(stream).head().sub("configuration/target-page-bits").u32(12).sub("configuration/capabilities").u32(2).name("a").name("bc").sub("configuration/uuid").raw(make([]byte, 16)...)
	for n := range s.b {
		_, err := vmstate.NewDestination(bytes.NewReader(s.b[:n]), io.Discard, vmstate.DestinationOptions{}).ReadHead()
		if !errors.Is(err, vmstate.ErrTruncated) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}
