package multifd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"testing"

	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/internal/socketpair"
	"github.com/vmferry/vmferry/multifd"
)

func state(id string, instance uint32, data []byte) devicestate.Packet {
	return devicestate.Packet{Flags: devicestate.Flag, ID: id, Instance: instance, Data: data}
}

func encodeState(t testing.TB, d devicestate.Packet) []byte {
	t.Helper()
	b, err := d.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDeviceState_SharesAChannelWithRAMPackets reads them in all their orders:
// a device-state packet is shorter than a RAM header, so that reading one runs
// into what follows.
func TestDeviceState_SharesAChannelWithRAMPackets(t *testing.T) {
	l := layout(t, page4K)
	pages := bytes.Repeat([]byte("ram!"), 2*page4K/4)
	ram := newRawPacket(page4K, 0, "pc.ram", offsets(page4K, 7, 9), offsets(page4K, 8), pages).bytes()
	pieces := map[string][]byte{
		"empty state": encodeState(t, state("dev", 1, nil)),
		"short state": encodeState(t, state("dev", 2, []byte("0123456789"))),
		"long state":  encodeState(t, state("dev", 3, bytes.Repeat([]byte("long"), 1000))),
		"SYNC":        syncPacket(page4K),
		"RAM":         ram,
	}
	names := []string{"empty state", "short state", "long state", "SYNC", "RAM"}
	for _, overSocket := range []bool{false, true} {
		for i := range 125 {
			order := []string{names[i%5], names[i/5%5], names[i/25], "RAM"}
			t.Run(fmt.Sprintf("%v/socket %v", order, overSocket), func(t *testing.T) {
				var wire []byte
				for _, name := range order {
					wire = append(wire, pieces[name]...)
				}
				var in io.Reader = bytes.NewReader(wire)
				if overSocket {
					a, b := socketpair.New(t)
					go func() { a.Write(wire); a.Close() }()
					in = b
				}
				m := memory(t, l)
				lane := laneOf(t, m)
				rc := receiver(t, in, multifd.None, l)
				for n, name := range order {
					p, d, err := rc.Next()
					if err != nil {
						t.Fatalf("packet %d: %v", n+1, err)
					}
					switch {
					case name == "SYNC" || name == "RAM":
						if p == nil || p.Sync() != (name == "SYNC") {
							t.Fatalf("packet %d is no %s", n+1, name)
						}
						if err := rc.Receive(lane); err != nil {
							t.Fatal(err)
						}
					case d == nil || !bytes.Equal(encodeState(t, *d), pieces[name]):
						t.Fatalf("packet %d is no %s, but %v", n+1, name, d)
					}
				}
				if _, _, err := rc.Next(); err != io.EOF {
					t.Errorf("at the end: %v", err)
				}
				if rc.Bytes() != uint64(len(wire)) || rc.Count() != uint64(len(order)+1) {
					t.Errorf("%d bytes of %d, %d packets begun", rc.Bytes(), len(wire), rc.Count())
				}
				got := m.Bytes(l.Block("pc.ram"))
				if !bytes.Equal(got[7*page4K:8*page4K], pages[:page4K]) || !bytes.Equal(got[9*page4K:10*page4K], pages[page4K:]) {
					t.Error("the pages of the RAM packet are not in place")
				}
			})
		}
	}
}

func TestDeviceState_FieldsAreChecked(t *testing.T) {
	be := binary.BigEndian
	for _, tt := range []struct {
		name   string
		change func(b []byte)
		field  string
	}{
		{"a method's bits", func(b []byte) { be.PutUint32(b[8:], 0x40|0x02) }, "flags"},
		{"a flag that is none", func(b []byte) { be.PutUint32(b[8:], 0x40|0x80) }, "flags"},
		{"an empty idstr", func(b []byte) { clear(b[12:268]) }, "idstr"},
		{"an idstr without an end", func(b []byte) { copy(b[12:268], bytes.Repeat([]byte("x"), 256)) }, "idstr"},
		{"a size above the limit", func(b []byte) { be.PutUint32(b[272:], devicestate.MaxData+1) }, "size"},
		{"a size of 4 GiB", func(b []byte) { be.PutUint32(b[272:], ^uint32(0)) }, "size"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := encodeState(t, state("dev", 1, []byte("data")))
			tt.change(b)
			wire := slices.Concat(syncPacket(page4K), b, syncPacket(page4K))
			l := layout(t, page4K)
			n, err := receiveAll(receiver(t, bytes.NewReader(wire), multifd.None, l), laneOf(t, memory(t, l)))
			if n != 1 {
				t.Errorf("%d packets were taken", n)
			}
			wantChannelError(t, err, multifd.ErrMalformed, 2, tt.field)
			if _, err := devicestate.ReadAll(bytes.NewReader(b)); !errors.Is(err, devicestate.ErrMalformed) {
				t.Errorf("kept with others: %v", err)
			}
		})
	}
}

func TestDeviceState_CutShortIsTruncated(t *testing.T) {
	wire := encodeState(t, state("dev", 1, []byte("data")))
	l := layout(t, page4K)
	for n := 1; n < len(wire); n++ {
		_, _, err := receiver(t, bytes.NewReader(wire[:n]), multifd.None, l).Next()
		var ce *multifd.ChannelError
		if !errors.Is(err, multifd.ErrTruncated) || !errors.As(err, &ce) || ce.Packet != 1 {
			t.Errorf("after %d bytes: %v", n, err)
		}
		if _, err := devicestate.ReadAll(bytes.NewReader(wire[:n])); !errors.Is(err, devicestate.ErrTruncated) {
			t.Errorf("kept with others, after %d bytes: %v", n, err)
		}
	}
}

func TestDeviceState_MemoryIsAllocatedAsBytesArrive(t *testing.T) {
	b := encodeState(t, state("dev", 1, nil))
	binary.BigEndian.PutUint32(b[272:], devicestate.MaxData)
	l := layout(t, page4K)
	rc := receiver(t, bytes.NewReader(append(b, make([]byte, 1000)...)), multifd.None, l)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, err := rc.Next()
	runtime.ReadMemStats(&after)
	wantChannelError(t, err, multifd.ErrTruncated, 1, "data")
	if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
		t.Errorf("%d bytes were allocated for 1,000 that came", n)
	}
}
