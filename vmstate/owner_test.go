package vmstate

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

func mustOwnerState(t testing.TB, state []byte) []byte {
	t.Helper()
	devices, err := OwnerState(state, 4096)
	if err != nil {
		t.Fatal(err)
	}
	return devices
}

func TestOwnerState_RoundTripsAnyBytes(t *testing.T) {
	inner := mustOwnerState(t, []byte("a stream in a stream"))
	for name, state := range map[string][]byte{
		"nothing":                   {},
		"text":                      []byte("counters"),
		"all bytes":                 bytes.Repeat([]byte{0, 6, 0x7e, 4, '}', 255}, 1000),
		"another stream's end":      inner,
		"an end and a little after": append(bytes.Clone(inner), '}'),
	} {
		devices := mustOwnerState(t, state)
		if _, ok := FindEnd(devices); !ok {
			t.Errorf("%s: the end is not found", name)
		}
		got, err := ParseOwnerState(devices)
		if err != nil || !bytes.Equal(got, state) {
			t.Errorf("%s: %d bytes came back as %d: %v", name, len(state), len(got), err)
		}
	}
}

func TestParseOwnerState_RefusesOtherDeviceState(t *testing.T) {
	whole := mustOwnerState(t, []byte("counters"))
	for cut := range len(whole) {
		if _, err := ParseOwnerState(whole[:cut]); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported) {
			t.Errorf("the first %d of %d bytes: %v", cut, len(whole), err)
		}
	}
	long := bytes.Clone(whole)
	copy(long[len(ownerHeader()):], []byte{0xff, 0xff, 0xff, 0xff})
	if _, err := ParseOwnerState(long); !errors.Is(err, ErrMalformed) {
		t.Errorf("a length beyond the end: %v", err)
	}
	if _, err := ParseOwnerState([]byte("\x04\x00\x00\x00\x05\x05timer")); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a QEMU's device: %v", err)
	}
	if _, err := OwnerState(make([]byte, MaxOwnerState+1), 4096); err == nil {
		t.Error("a state of more than can be carried was taken")
	}
}

func TestReadReply_DistinguishesReplies(t *testing.T) {
	for _, tt := range []struct {
		wire string
		want Reply
		err  error
	}{
		{"\x00\x02\x00\x04\x00\x00\x00\x07", Reply{Value: 7}, nil},
		{"\x00\x01\x00\x04\x00\x00\x00\x00", Reply{Shut: true}, nil},
		{"\x00\x01\x00\x04\x00\x00\x00\x05", Reply{Shut: true, Value: 5}, nil},
		{"\x00\x07\x00\x00", Reply{Other: true}, nil},
		{"\x00\x02\x00\x02\x00\x00", Reply{}, ErrMalformed},
		{"\x00\x09\x00\x00", Reply{}, ErrMalformed},
		{"\x00\x02\x00", Reply{}, ErrTruncated},
		{"", Reply{}, ErrTruncated},
	} {
		got, err := ReadReply(strings.NewReader(tt.wire))
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%q: %+v, %v; want %+v, %v", tt.wire, got, err, tt.want, tt.err)
		}
	}
	if err := (Reply{Shut: true, Value: 5}).Err(); !errors.Is(err, ErrRefused) {
		t.Errorf("SHUT 5 means %v", err)
	}
	if err := (Reply{Shut: true}).Err(); err != nil {
		t.Errorf("SHUT 0 means %v", err)
	}
}

func TestNextCommand_ReadsCommandsAfterTheEnd(t *testing.T) {
	there, here := net.Pipe()
	defer there.Close()
	go func() {
		w := NewWriter(there, nil, SyncPerRound)
		w.Command(Command{ID: CmdOpenReturnPath})
		w.Command(Ping(0x56464832))
		w.Flush()
		there.Write([]byte{sectionEOF})
	}()
	r := NewDestination(here, here, DestinationOptions{})
	if c, err := r.NextCommand(); err != nil || c.ID != CmdOpenReturnPath || !r.ReturnPath() {
		t.Fatal(c, err)
	}
	c, err := r.NextCommand()
	if word, ok := c.PingValue(); err != nil || !ok || word != 0x56464832 {
		t.Fatal(c, err)
	}
	if _, ok := (Command{ID: CmdPing, Data: []byte{1}}).PingValue(); ok {
		t.Error("a PING of one byte has a value")
	}
	if _, err := r.NextCommand(); !errors.Is(err, ErrMalformed) {
		t.Errorf("a section that is no command: %v", err)
	}
	if _, err := NewDestination(strings.NewReader(""), io.Discard, DestinationOptions{}).NextCommand(); !errors.Is(err, ErrTruncated) {
		t.Errorf("a connection that ends: %v", err)
	}
}

func FuzzParseOwnerState(f *testing.F) {
	f.Add([]byte{})
	f.Add(mustOwnerState(f, nil))
	f.Add(mustOwnerState(f, []byte("counters")))
	f.Fuzz(func(t *testing.T, devices []byte) {
		state, err := ParseOwnerState(devices)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported) {
				t.Errorf("an error of no kind: %v", err)
			}
			return
		}
		again, err := ParseOwnerState(mustOwnerState(t, state))
		if err != nil || !bytes.Equal(again, state) {
			t.Errorf("%q comes back as %q: %v", state, again, err)
		}
	})
}
