package devicestate_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/internal/seed"
)

var update = flag.Bool("update", false, "write the seed corpus")

func state(id string, instance uint32, data []byte) devicestate.Packet {
	return devicestate.Packet{Flags: devicestate.Flag, ID: id, Instance: instance, Data: data}
}

func encodeState(t testing.TB, p devicestate.Packet) []byte {
	t.Helper()
	b, err := p.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadAll_KeepsTheOrder(t *testing.T) {
	want := []devicestate.Packet{
		state("a", 0, []byte("first")), state("b", 1<<31, bytes.Repeat([]byte{1}, 1<<20+1)),
		{Flags: devicestate.Flag | 1, ID: "a", Data: []byte{0}},
	}
	var kept []byte
	for _, d := range want {
		kept = append(kept, encodeState(t, d)...)
	}
	got, err := devicestate.ReadAll(bytes.NewReader(kept))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(bytes.Equal)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, err := devicestate.ReadAll(bytes.NewReader(nil)); len(got) != 0 || err != nil {
		t.Errorf("of nothing: %v, %v", got, err)
	}
	kept[0] ^= 1
	if _, err := devicestate.ReadAll(bytes.NewReader(kept)); !errors.Is(err, devicestate.ErrMalformed) {
		t.Errorf("with another magic: %v", err)
	}
}

func TestPacket_TooLargeIsNotWritten(t *testing.T) {
	for _, d := range []devicestate.Packet{
		state("", 0, nil), state(string(make([]byte, 256)), 0, nil), state("dev", 0, make([]byte, devicestate.MaxData+1)),
	} {
		if b, err := d.Append(nil); err == nil || len(b) != 0 {
			t.Errorf("an id of %d and data of %d bytes: %d bytes, %v", len(d.ID), len(d.Data), len(b), err)
		}
	}
}

// FuzzReadAll reads packets and writes them again: they are the same, but for the bytes
// behind the end of an idstr.
func FuzzReadAll(f *testing.F) {
	one := encodeState(f, state("0000:00:05.0/vfio", 1, []byte("state")))
	seed.Add(f, *update, "one", one)
	seed.Add(f, *update, "three", slices.Concat(one, encodeState(f, state("x", 0, nil)), one))
	f.Fuzz(func(t *testing.T, kept []byte) {
		states, err := devicestate.ReadAll(bytes.NewReader(kept))
		if err != nil {
			if !errors.Is(err, devicestate.ErrMalformed) && !errors.Is(err, devicestate.ErrTruncated) || errors.Is(err, io.EOF) {
				t.Errorf("got %v", err)
			}
			return
		}
		var again []byte
		for _, d := range states {
			again = append(again, encodeState(t, d)...)
		}
		if len(again) != len(kept) {
			t.Fatalf("%d bytes were read as %d", len(kept), len(again))
		}
		back, err := devicestate.ReadAll(bytes.NewReader(again))
		if err != nil || len(back) != len(states) {
			t.Errorf("%d states came back of %d: %v", len(back), len(states), err)
		}
	})
}
