package vmstate_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/vmstate"
)

// eventsOf lists the events of a stream, pieces of device state joined.
func eventsOf(t *testing.T, stream []byte) (lines []string) {
	t.Helper()
	r := vmstate.NewReader(bytes.NewReader(stream), 0)
	if _, err := r.ReadHead(); err != nil {
		t.Fatal(err)
	}
	var devices []byte
	for {
		e, err := r.Next()
		if err == io.EOF {
			return append(lines, fmt.Sprintf("devices %x", devices))
		}
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == vmstate.EventDevices {
			devices = append(devices, e.Data...)
			continue
		}
		line := fmt.Sprintf("%d last=%v mode=%v offset=%#x data=%x command=%v", e.Kind, e.Last, e.Mode, e.Offset, e.Data, e.Command)
		if e.Block != nil {
			line += " block=" + e.Block.Name
		}
		if e.Layout != nil {
			for _, b := range e.Layout.Blocks {
				line += fmt.Sprintf(" %s/%d/%d", b.Name, b.Length, b.HugePage)
			}
		}
		lines = append(lines, line)
	}
}

// copyEvents writes the events of a stream to another one.
func copyEvents(t *testing.T, stream []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := vmstate.NewWriter(&out, nil, 0)
	r := vmstate.NewReader(bytes.NewReader(stream), 0)
	if _, err := r.ReadHead(); err != nil {
		t.Fatal(err)
	}
	if err := w.Head(r.Head()); err != nil {
		t.Fatal(err)
	}
	for {
		e, err := r.Next()
		if err == io.EOF {
			return out.Bytes()
		}
		if err == nil {
			err = w.Event(e)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestWriter_EventReproducesTheStream(t *testing.T) {
	pages := func(s *stream, flush uint64) *stream {
		s.part().u64(0x02).name("pc.ram").u8(0).u64(0x1000 | 0x02 | 0x20).u8(0)
		s.u64(0x2000 | 0x08).name("vga.vram").page(7)
		if flush != 0 {
			s.u64(flush)
		}
		return s.endOfPart().end().u64(0x3000 | 0x02).name("pc.ram").u8(0).endOfPart().devices()
	}
	for name, s := range map[string]*stream{
		"sync per round":   pages(new(stream).head().command(1).command(2, 0, 0, 0, 1).setup(true, twoBlocks...), 0x200),
		"sync per section": pages(new(stream).head().setup(false, twoBlocks...), 0),
		"huge pages":       pages(new(stream).head().setup(true, block{"pc.ram", 4 << 20, 2 << 20}, block{"vga.vram", 4 * pageSize, 4096}), 0x200),
	} {
		t.Run(name, func(t *testing.T) {
			want := eventsOf(t, s.b)
			if len(want) < 8 {
				t.Fatalf("only %d events: %q", len(want), want)
			}
			if diff := cmp.Diff(want, eventsOf(t, copyEvents(t, s.b))); diff != "" {
				t.Errorf("the events differ (-read +written and read):\n%s", diff)
			}
		})
	}
}

// The owner of a Reader decides on replies: the Reader writes nothing, and returns
// commands that a Destination refuses.
func TestReader_LeavesCommandsToItsOwner(t *testing.T) {
	s := new(stream).head().command(1).command(2, 0, 0, 0, 9).command(4).setup(true, twoBlocks...)
	lines := eventsOf(t, s.emptyEnd().devices().b)
	for i, want := range []string{"OPEN_RETURN_PATH", "PING", "POSTCOPY_LISTEN"} {
		if !bytes.Contains([]byte(lines[i]), []byte(want)) {
			t.Errorf("event %d is %q, want command %s", i, lines[i], want)
		}
	}
}
