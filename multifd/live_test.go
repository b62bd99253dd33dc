package multifd

import (
	"bytes"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
)

// A machine writes to its pages while they are sent. What arrives of such a page
// is of no use, for it comes again; but it has to arrive.
func TestMethod_PagesThatChangeWhileSentGiveValidStreams(t *testing.T) {
	for _, method := range Methods() {
		for _, level := range []int{0, LevelDense} {
			if level != 0 && method != QPL && method != UADK {
				continue
			}
			t.Run(method.Name(), func(t *testing.T) {
				layout, err := guest.NewLayout(4096, []guest.Block{{Name: "ram", Length: 64 * 4096}})
				if err != nil {
					t.Fatal(err)
				}
				from, err := guestmem.New(layout)
				if err != nil {
					t.Fatal(err)
				}
				defer from.Close()
				to, err := guestmem.New(layout)
				if err != nil {
					t.Fatal(err)
				}
				defer to.Close()
				var stop atomic.Bool
				done := make(chan struct{})
				go func() {
					defer close(done)
					mem := from.Bytes(layout.Blocks[0])
					for n := uint32(1); !stop.Load(); n++ {
						for at := int(n) % 509; at < len(mem); at += 509 {
							mem[at] = byte(n * 2654435761 >> 24)
						}
					}
				}()
				defer func() { stop.Store(true); <-done }()
				sent := sendLive(t, method, level, from)
				if n := receiveAll(t, method, sent, to); n < 100 {
					t.Errorf("only %d packets were sent", n)
				}
			})
		}
	}
}

// sendLive sends all of the memory again and again for a while.
func sendLive(t *testing.T, method Method, level int, from *guestmem.Memory) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	var num atomic.Uint64
	s, err := NewSender(&out, method, &num, ChannelConfig{PageSize: 4096, Level: level})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var b guest.Batch
	for n, began := 0, time.Now(); n < 100 || time.Since(began) < 100*time.Millisecond && n < 1000; n++ {
		for source := from.All(); ; {
			err := source.Next(t.Context(), &b)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Send(&b); err != nil {
				t.Fatal(err)
			}
		}
	}
	return &out
}

func receiveAll(t *testing.T, method Method, in io.Reader, to *guestmem.Memory) (packets int) {
	t.Helper()
	r, err := NewReceiver(in, method, ChannelConfig{PageSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.SetLayout(to.Layout())
	lane, err := to.Lane()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; packets++ {
		if _, _, err := r.Next(); err == io.EOF {
			return packets
		} else if err != nil {
			t.Fatal(err)
		}
		if err := r.Receive(lane); err != nil {
			t.Fatal(err)
		}
	}
}
