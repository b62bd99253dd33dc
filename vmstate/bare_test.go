package vmstate_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/vmferry/vmferry/vmstate"
)

// paused reads a stream whose parts arrive with a pause in between that is longer than
// a Quiet of 50 ms. The connection stays open.
func paused(t *testing.T, opts vmstate.DestinationOptions, parts ...[]byte) (*vmstate.Destination, error) {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	go func() {
		for i, part := range parts {
			if i > 0 {
				time.Sleep(200 * time.Millisecond)
			}
			a.Write(part)
		}
	}()
	opts.Quiet = 50 * time.Millisecond
	b.SetReadDeadline(time.Now().Add(time.Minute))
	return read(b, io.Discard, opts, new(notebook))
}

func withReturnPath() *stream {
	return new(stream).head().command(1).setup(true, twoBlocks...).emptyEnd()
}

func TestDestination_EndWithoutDescriptionAndWithReturnPath(t *testing.T) {
	// Device data can contain the device's own footer and another device's header.
	s := withReturnPath().device(7, "timer", 1, 2).device(3, "serial", append([]byte{9, 0x7e, 0, 0, 0, 3}, 1, 2)...).
		device(5, "kbd", 0x04, 0, 0, 0, 9, 1, 'x', 0).u8(0x00)
	_, err := paused(t, vmstate.DestinationOptions{}, s.b)
	wantStreamError(t, err, vmstate.ErrNoDescription, "device state", "suppress-vmdesc")
	r, err := paused(t, vmstate.DestinationOptions{NoDescription: true}, s.b)
	if err != nil || !r.EndedBySilence() || !bytes.HasSuffix(s.b, r.Devices()) || len(r.Devices()) < 50 {
		t.Errorf("with NoDescription: %d bytes of device state, ended quiet: %v, error %v", len(r.Devices()), r.EndedBySilence(), err)
	}
}

// A pause in device state is not taken for the end, with and without NoDescription.
func TestDestination_PauseInDeviceStateIsNotItsEnd(t *testing.T) {
	begin := func() *stream {
		return withReturnPath().device(3, "timer", 1).section(0x04, 4, "serial", 0, 1).raw(0x7e, 0, 0, 0, 9, 0)
	}
	rest := new(stream).raw(7).footer(4).description(`{"devices": [{"name": "timer", "instance_id": 0}, {"name": "serial", "instance_id": 0}]}`)
	for _, accept := range []bool{false, true} {
		r, err := paused(t, vmstate.DestinationOptions{NoDescription: accept}, begin().b, rest.b)
		if err != nil || r.EndedBySilence() {
			t.Errorf("NoDescription %v: ended quiet: %v, error %v", accept, r.EndedBySilence(), err)
		}
	}
}

func TestDestination_SilenceAfterIncompleteSectionsIsNoEnd(t *testing.T) {
	for name, s := range map[string]*stream{
		"a footer of no section": withReturnPath().section(0x04, 4, "serial", 0, 1).raw(1, 2).footer(5).u8(0),
		"a duplicate id":         withReturnPath().device(3, "timer", 1).device(4, "serial").device(3, "timer", 1).u8(0),
		"bytes between sections": withReturnPath().device(3, "timer", 1).raw(1).device(4, "serial").u8(0),
	} {
		a, b := net.Pipe()
		b.SetReadDeadline(time.Now().Add(time.Minute))
		go func() {
			a.Write(s.b)
			time.Sleep(150 * time.Millisecond)
			a.Close()
		}()
		_, err := read(b, io.Discard, vmstate.DestinationOptions{Quiet: 30 * time.Millisecond}, new(notebook))
		if !errors.Is(err, vmstate.ErrTruncated) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestWithDescription_AddsAMissingDescription(t *testing.T) {
	bare := new(stream).device(3, "timer", 1).u8(0x00).b
	got := vmstate.WithDescription(bare)
	if _, ok := vmstate.FindEnd(got); !ok || !bytes.HasPrefix(got, bare) || len(got) == len(bare) {
		t.Errorf("made %q of %q", got, bare)
	}
	for _, as := range [][]byte{new(stream).devices().b, nil, {1, 2, 3}} {
		if got := vmstate.WithDescription(as); !bytes.Equal(got, as) {
			t.Errorf("made %q of %q", got, as)
		}
	}
}
