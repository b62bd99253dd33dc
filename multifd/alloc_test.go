package multifd_test

import (
	"io"
	"slices"
	"testing"

	"github.com/vmferry/vmferry/internal/socketpair"
	"github.com/vmferry/vmferry/multifd"
)

// again is a reader that gives the same bytes over and over.
type again struct {
	wire []byte
	at   int
}

func (r *again) Read(p []byte) (int, error) {
	if r.at == len(r.wire) {
		r.at = 0
	}
	n := copy(p, r.wire[r.at:])
	r.at += n
	return n, nil
}

// steady are the allocations a packet that a method may make once it is under
// way. Where a stream's deflate blocks have codes of more than nine bits, the
// decoder makes tables for them.
var steady = map[string]struct{ receive, send float64 }{
	"none":   {0, 0},
	"zlib":   {2, 0},
	"zstd":   {0, 0},
	"qpl":    {0, 0},
	"uadk":   {0, 0},
	"qatzip": {2, 0},
}

// wireOf is what a channel carries: two packets of data and a SYNC. A stream's
// packets cannot be given again, so there is enough of them for the test.
func wireOf(t *testing.T, m multifd.Method) (wire []byte, packetCount int) {
	l := layout(t, page4K)
	r := seeded("steady")
	a, b := makeBatch(r, l, "pc.ram", "mixed", 40, 8), makeBatch(r, l, "vga.vram", "text", 40, 0)
	if m != multifd.Zlib && m != multifd.Zstd {
		return slices.Concat(append(packets(t, m, page4K, 0, a, b), syncPacket(page4K))...), 3
	}
	batches := someBatches(l, "steady", 18)
	return slices.Concat(packets(t, m, page4K, 0, batches...)...), len(batches)
}

func TestReceiver_DoesNotAllocateInTheSteadyState(t *testing.T) {
	forMethods(t, func(t *testing.T, m multifd.Method) {
		for _, over := range []string{"memory", "socket"} {
			t.Run(over, func(t *testing.T) {
				wire, count := wireOf(t, m)
				var in io.Reader = &again{wire: wire}
				if over == "socket" {
					a, b := socketpair.New(t)
					go func() {
						for {
							if _, err := a.Write(wire); err != nil {
								return // the test is over
							}
						}
					}()
					in = b
				}
				l := layout(t, page4K)
				lane := laneOf(t, memory(t, l))
				rc := receiver(t, in, m, l)
				packet := func() {
					if _, _, err := rc.Next(); err != nil {
						t.Fatal(err)
					}
					if err := rc.Receive(lane); err != nil {
						t.Fatal(err)
					}
				}
				runs := 12
				if count > 3 {
					runs = count - 6
				}
				for range 4 {
					packet()
				}
				if n, want := testing.AllocsPerRun(runs, packet), steady[m.Name()].receive; n > want {
					t.Errorf("%v allocations a packet, at most %v are right", n, want)
				}
			})
		}
	})
}

func TestSender_DoesNotAllocateInTheSteadyState(t *testing.T) {
	forMethods(t, func(t *testing.T, m multifd.Method) {
		for _, over := range []string{"memory", "socket"} {
			t.Run(over, func(t *testing.T) {
				out := io.Discard
				if over == "socket" {
					a, b := socketpair.New(t)
					go func() {
						buf := make([]byte, 1<<20)
						for {
							if _, err := b.Read(buf); err != nil {
								return
							}
						}
					}()
					out = a
				}
				l := layout(t, page4K)
				batch := makeBatch(seeded("steady"), l, "pc.ram", "mixed", 40, 8)
				s := sender(t, out, m)
				packet := func() {
					if err := s.Send(batch); err != nil {
						t.Fatal(err)
					}
					if err := s.Sync(); err != nil {
						t.Fatal(err)
					}
				}
				for range 4 {
					packet()
				}
				if n, want := testing.AllocsPerRun(12, packet), steady[m.Name()].send; n > want {
					t.Errorf("%v allocations a packet, at most %v are right", n, want)
				}
			})
		}
	})
}
