package vmstate_test

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/testfiles"
	"github.com/vmferry/vmferry/vmstate"
)

// recorded is the main channel of a recorded migration, without the pages of
// its middle.
func recorded(t testing.TB) []byte {
	t.Helper()
	return testfiles.Unzstd(t, filepath.Join("..", "migration", "testdata", "captures", "synthetic-none-2ch", "conn0.src.zst"))
}

func TestDestination_ReadsARecordedMainChannel(t *testing.T) {
	data := recorded(t)
	r, err := read(bytes.NewReader(data), io.Discard, vmstate.DestinationOptions{}, discard{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Bytes() != uint64(len(data)) || !bytes.HasSuffix(data, r.Devices()) {
		t.Errorf("%d bytes read of %d", r.Bytes(), len(data))
	}
	d, ok := vmstate.FindEnd(r.Devices())
	if !ok || len(d.Devices) < 20 || d.PageSize != 4096 {
		t.Errorf("the description has %d devices and pages of %d bytes", len(d.Devices), d.PageSize)
	}
	if got := vmstate.RunState(r.Devices()); got != "prelaunch" {
		t.Errorf("run state %q", got)
	}
	for n := range 2000 { // the end is at the end only
		if _, ok := vmstate.FindEnd(r.Devices()[:len(r.Devices())-1-n]); ok {
			t.Errorf("an end was found %d bytes before it", n+1)
		}
	}
}

// discard is a Handler that checks the offsets.
type discard struct{}

func (discard) Setup(*guest.Layout, vmstate.SyncMode) error { return nil }
func (discard) SyncPoint() error                            { return nil }

func (discard) Zero(b *guest.Block, offset uint64) error {
	if offset >= b.Length {
		panic("a zero page beyond its block")
	}
	return nil
}

func (d discard) Page(b *guest.Block, offset uint64, data []byte) error {
	if offset+uint64(len(data)) > b.Length {
		panic("a page beyond its block")
	}
	return nil
}

// FuzzReader passes any bytes to a reader. Errors blame the stream, and the reader
// keeps no more bytes than it received.
func FuzzReader(f *testing.F) {
	addSeed(f, "per-round", new(stream).ready().part().u64(0x02).name("pc.ram").u8(0).u64(0x1022).u8(7).u64(0x200).endOfPart().emptyEnd().devices().b)
	addSeed(f, "per-section-return-path", new(stream).head().command(1).command(2, 0, 0, 0, 1).setup(false, twoBlocks...).emptyEnd().devices().b)
	addSeed(f, "all-subsections-huge-pages", new(stream).head().sub("configuration/target-page-bits").u32(12).sub("configuration/capabilities").u32(1).name("x").sub("configuration/uuid").raw(make([]byte, 16)...).
		setup(true, block{"a", 2 << 20, 2 << 20}, block{"b", 4096, 0}).emptyEnd().device(1, "x").u8(0).b)
	main := recorded(f)
	f.Add(main[:min(len(main), 4096)])
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, opts := range []vmstate.DestinationOptions{{MaxDevices: 1 << 20}, {NoDescription: true, SwitchoverAck: true}} {
			r, err := read(bytes.NewReader(data), io.Discard, opts, discard{})
			if n := len(r.Head()) + len(r.Devices()); n > len(data) {
				t.Errorf("%d bytes kept of %d", n, len(data))
			}
			if err == nil {
				if !bytes.HasPrefix(data, r.Head()) || !bytes.Contains(data, r.Devices()) {
					t.Error("head and devices are not the stream's")
				}
				if _, err := vmstate.ParseHead(r.Head()); err != nil {
					t.Errorf("ParseHead of the head that ReadHead returned: %v", err)
				}
				continue
			}
			var se *vmstate.StreamError
			if !errors.As(err, &se) || se.Field == "" || se.Offset > uint64(len(data)) {
				t.Errorf("%v does not say where", err)
			}
			if !errors.Is(err, vmstate.ErrMalformed) && !errors.Is(err, vmstate.ErrTruncated) && !errors.Is(err, vmstate.ErrUnsupported) {
				t.Errorf("%v does not say that the stream is at fault", err)
			}
		}
	})
}

// FuzzFindEnd: an end remains an end with any bytes before the first section, and
// only if it is complete.
func FuzzFindEnd(f *testing.F) {
	addSeed(f, "plain", new(stream).devices().b)
	addSeed(f, "data-like-the-end", tricky().description(trickyJSON).b)
	addSeed(f, "no-devices", new(stream).description(`{}`).b)
	addSeed(f, "twice", []byte{0, 6, 0, 0, 0, 2, '{', '}', 0, 6, 0, 0, 0, 2, '{', '}'})
	f.Fuzz(func(t *testing.T, devices []byte) {
		vmstate.RunState(devices)
		if _, ok := vmstate.FindEnd(devices); !ok {
			return
		}
		if i := bytes.LastIndex(devices, []byte{0, 6}); i < 0 || devices[len(devices)-1] != '}' {
			t.Errorf("an end without a mark in %x", devices)
		}
		if _, ok := vmstate.FindEnd(append(bytes.Clone(devices), '}')); ok {
			t.Errorf("a brace more is an end, too: %x", devices)
		}
	})
}

// FuzzAwaitShut: a return path that reports success contains a SHUT.
func FuzzAwaitShut(f *testing.F) {
	addSeed(f, "loaded", new(stream).u16(2).u16(4).u32(1).u16(1).u16(4).u32(0).b)
	addSeed(f, "failed", new(stream).u16(7).u16(0).u16(1).u16(4).u32(1).b)
	addSeed(f, "asks-for-pages", new(stream).u16(4).u16(12).u64(0).u32(0).b)
	f.Fuzz(func(t *testing.T, data []byte) {
		switch err := vmstate.AwaitShut(bytes.NewReader(data)); {
		case err == nil:
			if !bytes.Contains(data, []byte{0, 1, 0, 4, 0, 0, 0, 0}) {
				t.Errorf("%x is taken for success", data)
			}
		case !errors.Is(err, vmstate.ErrMalformed) && !errors.Is(err, vmstate.ErrTruncated) && !errors.Is(err, vmstate.ErrRefused):
			t.Errorf("got %v", err)
		}
	})
}
