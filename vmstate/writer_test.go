package vmstate_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/vmstate"
)

func testLayout(t testing.TB) *guest.Layout {
	t.Helper()
	l, err := guest.NewLayout(pageSize, []guest.Block{{Name: "pc.ram", Length: 16 * pageSize}, {Name: "vga.vram", Length: 4 * pageSize}})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// write writes a stream with everything that a Writer supports.
func write(w io.Writer, l *guest.Layout, mode vmstate.SyncMode) (*vmstate.Writer, error) {
	ram, vga := l.Block("pc.ram"), l.Block("vga.vram")
	page := bytes.Repeat([]byte{0xee}, pageSize)
	out := vmstate.NewWriter(w, l, mode)
	return out, errors.Join(
		out.Head(new(stream).head().b),
		out.Command(vmstate.Command{ID: vmstate.CmdPing, Data: []byte{0, 0, 0, 1}}),
		out.Setup(),
		out.BeginSection(false),
		out.Zero(ram, 0x1000), out.Page(ram, 0x2000, page), out.Zero(vga, 0), out.Zero(ram, 0x3000),
		out.EndSection(),
		out.BeginSection(true),
		out.Page(ram, 0x3000, page),
		out.EndSection(),
		out.Devices(new(stream).devices().b),
	)
}

func TestWriter_MatchesAHandWrittenStream(t *testing.T) {
	for _, mode := range []vmstate.SyncMode{vmstate.SyncPerRound, vmstate.SyncPerSection} {
		t.Run(mode.String(), func(t *testing.T) {
			var got bytes.Buffer
			w, err := write(&got, testLayout(t), mode)
			if err != nil {
				t.Fatal(err)
			}
			flush := func(s *stream) *stream {
				if mode == vmstate.SyncPerRound {
					s.u64(0x200)
				}
				return s
			}
			const id = 1
			want := new(stream).head().command(2, 0, 0, 0, 1).
				section(0x01, id, "ram", 0, 4).u64(20*pageSize | 0x04).name("pc.ram").u64(16 * pageSize).name("vga.vram").u64(4 * pageSize)
			flush(want).u64(0x10).footer(id)
			want.u8(0x02).u32(id).
				u64(0x1000 | 0x02).name("pc.ram").u8(0).
				u64(0x2000 | 0x08 | 0x20).page(0xee).
				u64(0x0000 | 0x02).name("vga.vram").u8(0).
				u64(0x3000 | 0x02).name("pc.ram").u8(0)
			flush(want).u64(0x10).footer(id)
			want.u8(0x03).u32(id).u64(0x3000 | 0x08).name("pc.ram").page(0xee)
			flush(want).u64(0x10).footer(id)
			want.devices()
			if !bytes.Equal(got.Bytes(), want.b) {
				t.Errorf("(-want +got):\n%s", cmp.Diff(want.b, got.Bytes()))
			}
			if w.Bytes() != uint64(got.Len()) {
				t.Errorf("%d bytes counted of %d", w.Bytes(), got.Len())
			}
		})
	}
}

func TestWriter_OutputIsReadByReader(t *testing.T) {
	for _, mode := range []vmstate.SyncMode{vmstate.SyncPerRound, vmstate.SyncPerSection} {
		var wire bytes.Buffer
		if _, err := write(&wire, testLayout(t), mode); err != nil {
			t.Fatal(err)
		}
		var l notebook
		r, err := read(&wire, nil, vmstate.DestinationOptions{}, &l)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{setupLine + mode.String(), "sync", "zero pc.ram 0x1000", "page pc.ram 0x2000 of 0xee", "zero vga.vram 0x0", "zero pc.ram 0x3000", "sync", "page pc.ram 0x3000 of 0xee", "sync"}
		if diff := cmp.Diff(want, l.lines); diff != "" {
			t.Errorf("per %v (-want +got):\n%s", mode, diff)
		}
		if !bytes.Equal(r.Devices(), new(stream).devices().b) || !bytes.Equal(r.Head(), new(stream).head().b) {
			t.Error("head or devices changed on the way")
		}
	}
}

func TestWriter_FileSectionHasNoSyncPoint(t *testing.T) {
	var got bytes.Buffer
	w := vmstate.NewWriter(&got, testLayout(t), vmstate.SyncPerRound)
	var after []string
	err := errors.Join(
		w.StartSection(func(b *guest.Block) error { after = append(after, b.Name); return w.Flush() }),
		w.EndFileSection(),
	)
	want := new(stream).section(0x01, 1, "ram", 0, 4).u64(20*pageSize | 0x04).name("pc.ram").u64(16 * pageSize).name("vga.vram").u64(4 * pageSize).u64(0x10).footer(1)
	if err != nil || !bytes.Equal(got.Bytes(), want.b) {
		t.Errorf("%x, want %x (%v)", got.Bytes(), want.b, err)
	}
	if diff := cmp.Diff([]string{"pc.ram", "vga.vram"}, after); diff != "" {
		t.Errorf("called behind (-want +got):\n%s", diff)
	}
}

func TestWriter_KeepsItsFirstError(t *testing.T) {
	l := testLayout(t)
	for _, room := range []int{0, 30, 100, 5000} {
		full := &limited{left: room}
		w, err := write(full, l, vmstate.SyncPerRound)
		if !errors.Is(err, io.ErrShortWrite) || !strings.Contains(err.Error(), "main channel") {
			t.Errorf("after %d bytes: %v", room, err)
		}
		full.left = 1 << 20
		if err := errors.Join(w.Zero(l.Blocks[0], 0), w.Flush()); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("after %d bytes, once more: %v", room, err)
		}
	}
}

// limited accepts a number of bytes and then fails.
type limited struct{ left int }

func (w *limited) Write(p []byte) (int, error) {
	n := min(w.left, len(p))
	w.left -= n
	if n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}
