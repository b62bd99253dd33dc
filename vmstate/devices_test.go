package vmstate_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/vmstate"
)

// waiting is a source that sends pieces of size bytes and then waits, as a source with
// a return path does: another read blocks.
type waiting struct {
	data   []byte
	size   int
	beyond bool
}

var errWouldHang = errors.New("the source waits: reading on would hang")

func (w *waiting) Read(p []byte) (int, error) {
	if len(w.data) == 0 {
		w.beyond = true
		return 0, errWouldHang
	}
	n := copy(p[:min(w.size, len(p))], w.data)
	w.data = w.data[n:]
	return n, nil
}

// tricky is device data that contains the bytes of an end.
func tricky() *stream {
	nested := `{"devices": [{"name": "nested"}]}`
	return new(stream).
		device(3, "timer", 0, 6, 0, 0, 0, 2, '{', '}', ' ').
		device(4, "eof", 0, 6, 0, 6, 0, 6, 0, 0, 6).
		device(5, "json", []byte(nested+"}}}}")...).
		device(6, "wrong length", append([]byte{0, 6, 0, 0, 1, 0}, nested...)...).
		device(7, "huge length", append([]byte{0, 6, 0xff, 0xff, 0xff, 0xff}, nested...)...).
		device(8, "no json", append([]byte{0, 6, 0, 0, 0, 3}, "{x}"...)...).
		device(9, "whole stream", new(stream).description(someJSON).b...)
}

const trickyJSON = `{"page_size": 4096, "devices": [{"name": "timer", "instance_id": 0}, {"name": "eof", "instance_id": 0},
	{"name": "json", "instance_id": 0}, {"name": "wrong length", "instance_id": 0}, {"name": "huge length", "instance_id": 0},
	{"name": "no json", "instance_id": 0}, {"name": "whole stream", "instance_id": 0}]}`

func TestDestination_FindsTheEndAtItsLastByte(t *testing.T) {
	for name, devices := range map[string]*stream{
		"plain":                        new(stream).devices(),
		"data like the end":            tricky().description(trickyJSON),
		"no list of devices":           tricky().description(`{}`),
		"with braces inside":           new(stream).device(1, "x").description(`{"a": {"b": {"c": [{}, {}]}}, "page_size": 4096, "devices": []}`),
		"no devices":                   new(stream).description(`{"page_size": 4096, "devices": []}`),
		"a device without a line":      new(stream).device(1, "x", 1, 2).devices(),
		"the name of a device as data": new(stream).device(1, "x", []byte("\x04timer\x00\x00\x00\x00")...).devices(),
	} {
		t.Run(name, func(t *testing.T) {
			head := new(stream).head().command(1).setup(true, twoBlocks...).emptyEnd()
			whole := append(bytes.Clone(head.b), devices.b...)
			for size := 1; size <= len(devices.b)+1; size++ {
				src := &waiting{data: whole, size: size}
				r, err := read(src, io.Discard, vmstate.DestinationOptions{}, new(notebook))
				if err != nil || src.beyond {
					t.Fatalf("in pieces of %d: %v", size, err)
				}
				if !bytes.Equal(r.Devices(), devices.b) {
					t.Fatalf("in pieces of %d: %d bytes of device state were taken for %d", size, len(r.Devices()), len(devices.b))
				}
				if r.Bytes() != uint64(len(whole)) {
					t.Fatalf("in pieces of %d: %d bytes read of %d", size, r.Bytes(), len(whole))
				}
			}
		})
	}
}

func TestDestination_ReadsToEOFWithoutReturnPath(t *testing.T) {
	// The bytes of an end within device data are not the end: the source continues.
	inner := new(stream).devices().b
	devices := new(stream).device(1, "looks like an end", inner...).devices()
	head := new(stream).ready().emptyEnd()
	r, err := read(bytes.NewReader(append(head.b, devices.b...)), nil, vmstate.DestinationOptions{}, new(notebook))
	if err != nil || !bytes.Equal(r.Devices(), devices.b) {
		t.Errorf("%d bytes of %d, %v", len(r.Devices()), len(devices.b), err)
	}
}

func TestDestination_NoDescriptionNeedsTheOption(t *testing.T) {
	s := new(stream).ready().emptyEnd().device(3, "timer", 1, 2).u8(0x00)
	_, err := read(bytes.NewReader(s.b), io.Discard, vmstate.DestinationOptions{}, new(notebook))
	wantStreamError(t, err, vmstate.ErrTruncated, "device state", "suppress-vmdesc")
	r, err := read(bytes.NewReader(s.b), io.Discard, vmstate.DestinationOptions{NoDescription: true}, new(notebook))
	if err != nil || len(r.Devices()) == 0 {
		t.Errorf("with NoDescription: %v", err)
	}
	cut := s.b[:len(s.b)-1]
	if _, err := read(bytes.NewReader(cut), io.Discard, vmstate.DestinationOptions{NoDescription: true}, new(notebook)); !errors.Is(err, vmstate.ErrTruncated) {
		t.Errorf("with NoDescription, cut short: %v", err)
	}
	withOne := new(stream).ready().emptyEnd().devices()
	if _, err := read(bytes.NewReader(withOne.b), io.Discard, vmstate.DestinationOptions{NoDescription: true}, new(notebook)); err != nil {
		t.Errorf("with NoDescription, and one all the same: %v", err)
	}
}

func TestDestination_BoundsDeviceState(t *testing.T) {
	s := new(stream).ready().emptyEnd().device(3, "big", make([]byte, 100_000)...).devices()
	start := bytes.Index(s.b, []byte("\x04\x00\x00\x00\x03\x03big"))
	size := uint64(len(s.b) - start)
	if _, err := read(bytes.NewReader(s.b), io.Discard, vmstate.DestinationOptions{MaxDevices: size}, new(notebook)); err != nil {
		t.Errorf("as much as is allowed: %v", err)
	}
	_, err := read(bytes.NewReader(s.b), io.Discard, vmstate.DestinationOptions{MaxDevices: size - 1}, new(notebook))
	wantStreamError(t, err, vmstate.ErrMalformed, "device state", fmt.Sprint(size-1))
}

// The garbage of a growing slice counts too: it stays in memory until the garbage
// collector frees it.
func TestDestination_AllocatesLittleMoreThanTheDeviceState(t *testing.T) {
	const size = 15 << 20
	s := new(stream).ready().emptyEnd().device(3, "large", make([]byte, size)...).devices()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r, err := read(bytes.NewReader(s.b), io.Discard, vmstate.DestinationOptions{}, new(notebook))
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Devices()) < size {
		t.Fatalf("%d bytes of device state were kept", len(r.Devices()))
	}
	if all := after.TotalAlloc - before.TotalAlloc; all > 3*size {
		t.Errorf("%d bytes were allocated for %d bytes of device state (want 3 times as many at most)", all, size)
	}
}

func TestFindEnd_ReturnsTheDescription(t *testing.T) {
	d, ok := vmstate.FindEnd(new(stream).devices().b)
	want := vmstate.Description{PageSize: 4096, Devices: []vmstate.DeviceDescription{{Name: "timer", State: "timer", Version: 2}, {Name: "serial", State: "serial", Version: 3}}}
	if diff := cmp.Diff(want, d); !ok || diff != "" {
		t.Errorf("found %v (-want +got):\n%s", ok, diff)
	}
}

func TestFindEnd_RefusesIncompleteDeviceState(t *testing.T) {
	whole := tricky().description(trickyJSON).b
	for n := range whole {
		if d, ok := vmstate.FindEnd(whole[:n]); ok || !cmp.Equal(d, vmstate.Description{}) {
			t.Errorf("in %d of %d bytes: %+v, %v", n, len(whole), d, ok)
		}
	}
	for name, devices := range map[string][]byte{
		"a byte behind it":            append(bytes.Clone(whole), '}'),
		"no EOF before it":            bytes.Replace(new(stream).devices().b, []byte{0, 6, 0, 0, 0, byte(len(someJSON))}, []byte{1, 6, 0, 0, 0, byte(len(someJSON))}, 1),
		"a device that did not come":  new(stream).device(3, "serial").description(someJSON).b,
		"another instance of it":      new(stream).device(3, "timer").section(0x04, 4, "serial", 1, 2).footer(4).description(someJSON).b,
		"a device that is not over":   new(stream).device(3, "timer").section(0x04, 4, "serial", 0, 2).description(someJSON).b,
		"another device's footer":     new(stream).device(3, "timer").section(0x04, 4, "serial", 0, 2).footer(3).description(someJSON).b,
		"devices in another order":    new(stream).device(4, "serial").device(3, "timer").description(someJSON).b,
		"a description alone":         new(stream).description(someJSON).b,
		"text that is no JSON":        new(stream).description(`{"page_size": }`).b,
		"a list":                      new(stream).description(`[{}]`).b,
		"devices of another type":     new(stream).description(`{"page_size": 1, "devices": {}}`).b,
		"a length that is too long":   {0, 6, 0, 0, 0, 3, '{', '}'},
		"nothing behind the length":   {0, 6, 0, 0, 0, 0},
		"no room for the length":      {0, 6, 0, 0, '}'},
		"only a brace":                {'}'},
		"a mark at the very end":      {'x', 0, 6, '}'},
		"a length of 4 GiB and a bit": {0, 6, 0xff, 0xff, 0xff, 0xff, '{', '}'},
	} {
		if d, ok := vmstate.FindEnd(devices); ok || !cmp.Equal(d, vmstate.Description{}) {
			t.Errorf("%s: %+v, %v", name, d, ok)
		}
	}
}

// TestFindEnd_TakesLinearTime: possible ends, each with a matching length, do not cause
// repeated parsing of the rest.
func TestFindEnd_TakesLinearTime(t *testing.T) {
	const n = 1 << 20
	b := make([]byte, 0, n)
	for len(b) < n-7 {
		b = append(b, 0, 6)
		b = binary.BigEndian.AppendUint32(b, uint32(n-len(b)-4))
		b = append(b, '{')
	}
	b = append(b, bytes.Repeat([]byte{'}'}, n-len(b))...)
	start := time.Now()
	if _, ok := vmstate.FindEnd(b); ok {
		t.Error("an end was found")
	}
	if d := time.Since(start); d > time.Minute { // quadratic, it would take many
		t.Errorf("it took %v for a MiB", d)
	}
}

func TestRunState_ReadsGlobalstate(t *testing.T) {
	global := func(s *stream, size uint32, text string) *stream {
		return s.section(0x04, 9, "globalstate", 0, 1).u32(size).raw([]byte(text)...).footer(9)
	}
	padded := "running\x00" + strings.Repeat("\x00", 92)
	for _, tt := range []struct {
		name string
		s    *stream
		want string
	}{
		{"padded, as QEMU writes it", global(new(stream).device(1, "timer", 1), 100, padded), "running"},
		{"without an end", global(new(stream), 6, "paused"), "paused"},
		{"with rubbish behind its end", global(new(stream), 10, "paused\x00xyz"), "paused"},
		{"empty", global(new(stream), 0, ""), ""},
		{"behind a device that has the word in it", global(new(stream).device(1, "x", []byte("\x0bglobalstate is a word")...), 100, padded), "running"},
		{"none", new(stream).devices(), ""},
		{"cut off behind its name", new(stream).section(0x04, 9, "globalstate", 0, 1), ""},
		{"cut off in its text", new(stream).section(0x04, 9, "globalstate", 0, 1).u32(100).raw([]byte("run")...), ""},
		{"a length beyond reason", global(new(stream), ^uint32(0), padded), ""},
		{"the name without a section", new(stream).name("globalstate").raw(make([]byte, 40)...), ""},
	} {
		if got := vmstate.RunState(tt.s.b); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
