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

const setupLine = "setup pc.ram 65536, vga.vram 16384, sync per "

func TestDestination_PassesPagesAndZeroRecords(t *testing.T) {
	s := new(stream).ready().part().
		u64(0x1000 | 0x08).name("pc.ram").page(0xaa). // PAGE
		u64(0x3000 | 0x08 | 0x20).page(0xbb).         // CONTINUE
		u64(0x2000 | 0x02 | 0x20).u8(0).              // ZERO
		u64(0x0000 | 0x02).name("vga.vram").u8(0x77). // ZERO with a fill byte
		u64(0x1000 | 0x02 | 0x20).u8(0).
		u64(0xf000 | 0x02).name("pc.ram").u8(0).
		endOfPart().
		end().u64(0x0000 | 0x08 | 0x20).page(0xcc). // CONTINUE across sections
		endOfPart().devices()
	r, lines := readAll(t, s)
	want := []string{setupLine + "round", "sync",
		"page pc.ram 0x1000 of 0xaa", "page pc.ram 0x3000 of 0xbb", "zero pc.ram 0x2000",
		"page vga.vram 0x0 of 0x77", "zero vga.vram 0x1000", "zero pc.ram 0xf000", "page pc.ram 0x0 of 0xcc"}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if r.Sections() != 3 {
		t.Errorf("%d RAM sections, want 3", r.Sections())
	}
	if r.Layout().Size() != 20*pageSize || r.ReturnPath() {
		t.Errorf("%d bytes of RAM, return path %v", r.Layout().Size(), r.ReturnPath())
	}
}

func TestReader_SyncPerRoundIfTheSetupHasAFlush(t *testing.T) {
	s := new(stream).head().setup(true, twoBlocks...).
		part().u64(0x200).endOfPart().
		part().endOfPart().
		part().u64(0x02).name("pc.ram").u8(0).u64(0x200).u64(0x200).endOfPart().
		end().u64(0x200).endOfPart().devices()
	r, lines := readAll(t, s)
	want := []string{setupLine + "round", "sync", "sync", "zero pc.ram 0x0", "sync", "sync", "sync"}
	if diff := cmp.Diff(want, lines); diff != "" || r.SyncMode() != vmstate.SyncPerRound {
		t.Errorf("mode %v (-want +got):\n%s", r.SyncMode(), diff)
	}
}

func TestReader_SyncPerSectionIfTheSetupHasNoFlush(t *testing.T) {
	s := new(stream).head().setup(false, twoBlocks...).
		part().endOfPart().part().u64(0x02).name("pc.ram").u8(0).endOfPart().emptyEnd().devices()
	r, lines := readAll(t, s)
	want := []string{setupLine + "section", "sync", "sync", "zero pc.ram 0x0", "sync", "sync"}
	if diff := cmp.Diff(want, lines); diff != "" || r.SyncMode() != vmstate.SyncPerSection {
		t.Errorf("mode %v (-want +got):\n%s", r.SyncMode(), diff)
	}
}

func TestSyncMode_TextRoundTrip(t *testing.T) {
	for _, m := range []vmstate.SyncMode{vmstate.SyncPerRound, vmstate.SyncPerSection} {
		text, err := m.MarshalText()
		got := vmstate.SyncMode(99)
		if err := errors.Join(err, got.UnmarshalText(text)); err != nil || got != m {
			t.Errorf("%v became %q and %v (%v)", m, text, got, err)
		}
	}
	if err := new(vmstate.SyncMode).UnmarshalText([]byte("never")); err == nil {
		t.Error("a mode that is none was taken")
	}
}

// TestReader_ReadsHugePageSizes: with postcopy-ram on, a block
// of huge pages is followed by their size, wherever it is in the list.
func TestReader_ReadsHugePageSizes(t *testing.T) {
	const huge = 2 << 20
	for _, flush := range []bool{true, false} {
		mode := map[bool]string{true: "round", false: "section"}[flush]
		for name, blocks := range map[string][]block{
			"first":  {{"a", huge, huge}, {"b", 4096, 0}},
			"last":   {{"b", 4096, 0}, {"a", huge, huge}},
			"all":    {{"a", huge, huge}, {"b", huge, huge}},
			"only":   {{"a", 1 << 30, 1 << 30}},
			"middle": {{"b", 4096, 0}, {"a", 2 * huge, huge}, {"c", 8192, 0}},
			"none":   {{"b", 4096, 0}, {"c", 4096, 0}},
		} {
			s := new(stream).head().setup(flush, blocks...).emptyEnd().devices()
			r, _ := readAll(t, s)
			for i, b := range r.Layout().Blocks {
				if want := blocks[i]; b.Name != want.name || b.Length != want.length || b.HugePage != want.huge {
					t.Errorf("%s, per %s: block %d is %+v, want %+v", name, mode, i, *b, want)
				}
			}
			if r.SyncMode().String() != mode {
				t.Errorf("%s: sync per %v, want %s", name, r.SyncMode(), mode)
			}
		}
	}
}

func TestReader_RefusesMalformedSetups(t *testing.T) {
	start := func() *stream { return new(stream).head().section(0x01, ramID, "ram", 0, 4) }
	many := start().u64(1<<40 | 0x04)
	for i := range guest.MaxBlocks + 1 {
		many.name(strings.Repeat("b", 1+i%250) + string(rune('a'+i/250))).u64(4096)
	}
	for _, tt := range []struct {
		name   string
		stream *stream
		field  string
		says   string
	}{
		{"it begins with a page", start().u64(0x08), "MEM_SIZE", "0x8"},
		{"it has no blocks", start().u64(0x04).u64(0x10), "MEM_SIZE", "0 RAM blocks"},
		{"a block is larger than the total", start().u64(0x2000 | 4).name("a").u64(0x3000), "MEM_SIZE", "12288"},
		{"the last block is larger than what is left", start().u64(0x2000 | 4).name("a").u64(0x1000).name("b").u64(0x2000), "MEM_SIZE", `"b"`},
		{"the blocks are smaller than the total", start().u64(0x3000 | 4).name("a").u64(0x1000).name("b").u64(0x1000).u64(0x200).u64(0x10), "MEM_SIZE", "0x200"},
		{"a block is empty", start().u64(0x2000 | 4).name("a").u64(0), "MEM_SIZE", "0 bytes"},
		{"a block is half a page", start().u64(0x400 | 4).name("a").u64(0x400).u64(0x10), "MEM_SIZE", "1024"},
		{"a block has no name", start().u64(0x1000 | 4).name("").u64(0x1000).u64(0x10), "MEM_SIZE", "name of 0"},
		{"two blocks have one name", start().u64(0x2000 | 4).name("a").u64(0x1000).name("a").u64(0x1000).u64(0x10), "MEM_SIZE", "twice"},
		{"there are too many blocks", many, "MEM_SIZE", "more than 4096"},
		{"the machine is too large", start().u64(1<<50 | 4).name("a").u64(1 << 50).u64(0x10), "MEM_SIZE", "above the limit of 16 TiB"},
		{"a page size is no power of two", start().u64(0x2000 | 4).name("a").u64(0x1000).u64(0x3000), "MEM_SIZE", "page size 0x3000"},
		{"a page size is tiny", start().u64(0x2000 | 4).name("a").u64(0x1000).u64(0x100), "MEM_SIZE", "page size 0x100"},
		{"a page size is beyond reason", start().u64(0x2000 | 4).name("a").u64(0x1000).u64(1 << 50), "MEM_SIZE", "page size"},
		{"a page follows the list", start().u64(0x1000 | 4).name("a").u64(0x1000).u64(0x08), "RAM setup", "0x8"},
		{"two flushes follow the list", start().u64(0x1000 | 4).name("a").u64(0x1000).u64(0x200).u64(0x200), "RAM setup", "0x200"},
		{"another section's footer", start().u64(0x1000 | 4).name("a").u64(0x1000).u64(0x10).footer(9), "section footer", "section 9"},
		{"no footer", start().u64(0x1000 | 4).name("a").u64(0x1000).u64(0x10).u8(2).u32(2), "section footer", "0x02"},
		{"version 3", new(stream).head().section(0x01, ramID, "ram", 0, 3), "section header", "version 3"},
		{"instance 1", new(stream).head().section(0x01, ramID, "ram", 1, 4), "section header", "instance 1"},
		{"a second setup", new(stream).ready().setup(true, twoBlocks...), "section header", "second"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.stream.raw(make([]byte, 32)...)
			_, err := read(bytes.NewReader(s.b), io.Discard, vmstate.DestinationOptions{}, new(notebook))
			wantStreamError(t, err, vmstate.ErrMalformed, tt.field, tt.says)
		})
	}
}

func TestReader_RefusesMalformedRecords(t *testing.T) {
	for _, tt := range []struct {
		name   string
		stream *stream
		is     error
		says   string
	}{
		{"CONTINUE without a block", new(stream).ready().part().u64(0x08 | 0x20).page(1), vmstate.ErrMalformed, "without a RAM block"},
		{"an unknown block", new(stream).ready().part().u64(0x08).name("pc.rom").page(1), vmstate.ErrMalformed, `"pc.rom"`},
		{"an empty block name", new(stream).ready().part().u64(0x02).name("").u8(0), vmstate.ErrMalformed, `""`},
		{"a page beyond its block", new(stream).ready().part().u64(16*pageSize | 0x08).name("pc.ram").page(1), vmstate.ErrMalformed, "0x10000"},
		{"a zero page beyond its block", new(stream).ready().part().u64(4*pageSize | 0x02).name("vga.vram").u8(0), vmstate.ErrMalformed, "0x4000"},
		{"an offset within a page", new(stream).ready().part().u64(0x400 | 0x02).name("pc.ram").u8(0), vmstate.ErrMalformed, "0x400"},
		{"the highest offset", new(stream).ready().part().u64(^uint64(0xfff) | 0x02).name("pc.ram").u8(0), vmstate.ErrMalformed, "beyond"},
		{"a flush where the setup had none", new(stream).head().setup(false, twoBlocks...).part().u64(0x200), vmstate.ErrMalformed, "MULTIFD_FLUSH"},
		{"no flag", new(stream).ready().part().u64(0x1000), vmstate.ErrMalformed, "flags 0x0"},
		{"CONTINUE alone", new(stream).ready().part().u64(0x1020), vmstate.ErrMalformed, "flags 0x20"},
		{"two kinds at once", new(stream).ready().part().u64(0x08 | 0x02), vmstate.ErrMalformed, "flags 0xa"},
		{"a second list of blocks", new(stream).ready().part().u64(0x1004), vmstate.ErrMalformed, "flags 0x4"},
		{"an xbzrle page", new(stream).ready().part().u64(0x40).name("pc.ram"), vmstate.ErrUnsupported, "xbzrle"},
		{"a compressed page", new(stream).ready().part().u64(0x100).name("pc.ram"), vmstate.ErrUnsupported, "compress"},
		{"a hook of RDMA", new(stream).ready().part().u64(0x80), vmstate.ErrUnsupported, "RDMA"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.stream.raw(make([]byte, 32)...)
			_, err := read(bytes.NewReader(s.b), io.Discard, vmstate.DestinationOptions{}, new(notebook))
			wantStreamError(t, err, tt.is, "RAM record", tt.says)
		})
	}
}

func TestDestination_HandlerErrorEndsRun(t *testing.T) {
	s := new(stream).ready().part().u64(0x02).name("pc.ram").u8(0).u64(0x1008).name("pc.ram").page(1).endOfPart().emptyEnd().devices()
	for _, at := range []string{"setup", "sync", "zero", "page"} {
		l := &notebook{fail: at}
		_, err := read(bytes.NewReader(s.b), io.Discard, vmstate.DestinationOptions{}, l)
		if !errors.Is(err, errHandler) {
			t.Errorf("%s: got %v", at, err)
		}
		if last := l.lines[len(l.lines)-1]; !strings.HasPrefix(last, at) {
			t.Errorf("%s: events after the error, up to %q", at, last)
		}
	}
}

func TestReader_ReadsPagesOfOtherSizes(t *testing.T) {
	const size = 64 << 10
	s := new(stream).head().sub("configuration/target-page-bits").u32(16).
		setup(true, block{"mach-virt.ram", 4 * size, 0}).
		part().u64(size | 0x08).name("mach-virt.ram").raw(bytes.Repeat([]byte{1}, size)...).endOfPart().emptyEnd().devices()
	_, lines := readAll(t, s)
	if want := "page mach-virt.ram 0x10000 of 65536 mixed bytes"; lines[2] != want {
		t.Errorf("got %q, want %q", lines[2], want)
	}
}
