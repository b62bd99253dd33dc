package multifd_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
)

func TestMethodNamed_KnowsQEMUsNames(t *testing.T) {
	flags := map[string]multifd.Flags{}
	for _, m := range multifd.Methods() {
		flags[m.Name()] = m.Flag()
		if got, err := multifd.MethodNamed(m.Name()); got != m || err != nil {
			t.Errorf("%s: %v, %v", m.Name(), got, err)
		}
	}
	want := map[string]multifd.Flags{"none": 0, "zlib": 2, "zstd": 4, "qpl": 8, "uadk": 0x10, "qatzip": 0x20}
	if diff := cmp.Diff(want, flags); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	_, err := multifd.MethodNamed("lz4")
	if !errors.Is(err, multifd.ErrUnknownMethod) || !strings.Contains(err.Error(), "lz4") || !strings.Contains(err.Error(), "qatzip") {
		t.Errorf("of an unknown one: %v", err)
	}
}

func TestMethods_ReturnsACopy(t *testing.T) {
	multifd.Methods()[0] = nil
	if multifd.Methods()[0] != multifd.None {
		t.Error("a caller changed the list")
	}
}

// TestMethod_SendsToItsOwnReceiver sends several packets of one channel: of
// one page and of a full packet, with zero pages and without.
func TestMethod_SendsToItsOwnReceiver(t *testing.T) {
	forMethods(t, func(t *testing.T, m multifd.Method) {
		for _, pageSize := range []int{4 << 10, 16 << 10, 64 << 10} {
			kinds := append(contentNames, "mixed")
			if pageSize != page4K {
				kinds = kinds[4:]
			}
			for _, kind := range kinds {
				t.Run(sizeName(pageSize)+"/"+kind, func(t *testing.T) {
					l := layout(t, pageSize)
					full := l.PacketPages()
					r := seeded(t.Name())
					var batches []*guest.Batch
					for _, n := range [][2]int{{1, 0}, {full, 0}, {2, 3}, {0, full}, {full / 2, full / 2}, {1, 0}} {
						block := []string{"pc.ram", "vga.vram"}[r.IntN(2)]
						batches = append(batches, makeBatch(r, l, block, kind, n[0], n[1]))
					}
					checkCarried(t, m, l, 0, batches)
				})
			}
		}
	})
}

func TestMethod_SendsPagesAtEveryLevel(t *testing.T) {
	levels := map[string][]int{"none": {0}, "zlib": {0, 1, 6, 9}, "zstd": {0, 1, 3, 9, 20}, "qpl": {0, 1, multifd.LevelDense}, "uadk": {0, 1, multifd.LevelDense}, "qatzip": {0, 1, 9}}
	forMethods(t, func(t *testing.T, m multifd.Method) {
		for _, level := range levels[m.Name()] {
			l := layout(t, page4K)
			r := seeded(t.Name())
			checkCarried(t, m, l, level, []*guest.Batch{makeBatch(r, l, "pc.ram", "mixed", 30, 0), makeBatch(r, l, "pc.ram", "text", 30, 0)})
		}
	})
}

func checkCarried(t *testing.T, m multifd.Method, l *guest.Layout, level int, batches []*guest.Batch) {
	t.Helper()
	wire := slices.Concat(packets(t, m, l.PageSize, level, batches...)...)
	mem := memory(t, l)
	n, err := receiveAll(receiver(t, bytes.NewReader(wire), m, l), laneOf(t, mem))
	if err != nil || n != len(batches) {
		t.Fatalf("%d packets of %d: %v", n, len(batches), err)
	}
	checkMemory(t, mem, batches...)
}

func TestPacket_HasTheMethodsFlagAndSize(t *testing.T) {
	forMethods(t, func(t *testing.T, m multifd.Method) {
		l := layout(t, page4K)
		wires := packets(t, m, page4K, 0, makeBatch(seeded("flag"), l, "pc.ram", "mixed", 5, 2))
		rc := receiver(t, bytes.NewReader(wires[0]), m, l)
		p, _, err := rc.Next()
		if err != nil {
			t.Fatal(err)
		}
		if p.Flags != m.Flag() || int(p.PayloadLen) != len(wires[0])-multifd.HeaderLen(page4K) {
			t.Errorf("flags %v and a payload of %d bytes; want %v and %d", p.Flags, p.PayloadLen, m.Flag(), len(wires[0])-multifd.HeaderLen(page4K))
		}
	})
}

// TestMethod_PayloadOfTheWrongSizeIsRefused changes next_packet_size of a good packet.
// A stream decoder may have its pages before it has seen the marks that end the
// flush; that bytes are missing shows with the next packet then.
func TestMethod_PayloadOfTheWrongSizeIsRefused(t *testing.T) {
	forMethods(t, func(t *testing.T, m multifd.Method) {
		l := layout(t, page4K)
		good := packets(t, m, page4K, 0, makeBatch(seeded("size"), l, "pc.ram", "text", 3, 0))[0]
		size := len(good) - multifd.HeaderLen(page4K)
		for name, next := range map[string]int{"nothing": 0, "one byte less": size - 1, "half": size / 2, "a hundred bytes more": size + 100, "1 GiB": 1 << 30, "4 GiB": 1<<32 - 1} {
			t.Run(name, func(t *testing.T) {
				wire := append(bytes.Clone(good), make([]byte, 1000)...)
				be := wire[20:24]
				be[0], be[1], be[2], be[3] = byte(next>>24), byte(next>>16), byte(next>>8), byte(next)
				_, err := receiveAll(receiver(t, bytes.NewReader(wire), m, l), laneOf(t, memory(t, l)))
				var ce *multifd.ChannelError
				if !errors.Is(err, multifd.ErrMalformed) || !errors.As(err, &ce) || ce.Channel != 3 || ce.Packet > 2 {
					t.Errorf("got %v, want ErrMalformed in packet 1 or right behind it", err)
				}
			})
		}
	})
}

func TestMethod_PayloadOfAnotherMethodIsRefused(t *testing.T) {
	l := layout(t, page4K)
	b := makeBatch(seeded("another"), l, "pc.ram", "text", 3, 0)
	forMethods(t, func(t *testing.T, m multifd.Method) {
		for _, other := range multifd.Methods() {
			if other == m {
				continue
			}
			wire := packets(t, other, page4K, 0, b)[0]
			wire[11] = byte(m.Flag()) // it claims to be of the method
			if _, err := receiveAll(receiver(t, bytes.NewReader(wire), m, l), laneOf(t, memory(t, l))); !errors.Is(err, multifd.ErrMalformed) {
				t.Errorf("%s: %v", other.Name(), err)
			}
		}
	})
}

// refusingLane refuses at one of a lane's calls.
type refusingLane struct {
	guest.Lane
	at string
}

var errLane = errors.New("the sink is full")

func (l refusingLane) Pages(b *guest.Block, offsets []uint64) ([][]byte, error) {
	if l.at == "pages" {
		return nil, errLane
	}
	return l.Lane.Pages(b, offsets)
}

func (l refusingLane) Commit() error {
	if l.at == "commit" {
		return errLane
	}
	return l.Lane.Commit()
}

func (l refusingLane) Zero(b *guest.Block, offsets []uint64) error {
	if l.at == "zero" {
		return errLane
	}
	return l.Lane.Zero(b, offsets)
}

func TestReceiver_ReturnsTheSinksErrors(t *testing.T) {
	forMethods(t, func(t *testing.T, m multifd.Method) {
		l := layout(t, page4K)
		wire := packets(t, m, page4K, 0, makeBatch(seeded("sink"), l, "pc.ram", "text", 2, 1))[0]
		for at, field := range map[string]string{"pages": "placing pages", "commit": "keeping pages", "zero": "zero pages"} {
			_, err := receiveAll(receiver(t, bytes.NewReader(wire), m, l), refusingLane{laneOf(t, memory(t, l)), at})
			wantChannelError(t, err, errLane, 1, field)
		}
	})
}

func TestMethod_InvalidPageSizesAreRefused(t *testing.T) {
	for _, pageSize := range []int{0, 512, 128 << 10, -1} {
		cfg := multifd.ChannelConfig{Channel: 1, PageSize: pageSize}
		if r, err := multifd.NewReceiver(bytes.NewReader(nil), multifd.None, cfg); err == nil || r != nil {
			t.Errorf("a receiver of %d byte pages: %v", pageSize, err)
		}
		if s, err := multifd.NewSender(io.Discard, multifd.None, nil, cfg); err == nil || s != nil {
			t.Errorf("a sender of %d byte pages: %v", pageSize, err)
		}
	}
}

func TestNewSender_LevelOutsideTheMethodsIsRefused(t *testing.T) {
	forMethods(t, func(t *testing.T, m multifd.Method) {
		levels := m.Levels()
		for _, level := range []int{-3, -1, 42, levels.Most + 1} {
			s, err := multifd.NewSender(io.Discard, m, nil, multifd.ChannelConfig{Channel: 5, PageSize: page4K, Level: level})
			if !errors.Is(err, multifd.ErrLevel) || s != nil {
				t.Fatalf("level %d: %v", level, err)
			}
			for _, part := range []string{"channel 5", m.Name(), levels.String()} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("level %d: %v (want %q in it)", level, err, part)
				}
			}
		}
	})
}

func TestNewSender_EveryLevelOfAMethodIsAccepted(t *testing.T) {
	forMethods(t, func(t *testing.T, m multifd.Method) {
		for _, level := range []int{0, m.Levels().Least, m.Levels().Most} {
			s, err := multifd.NewSender(io.Discard, m, nil, multifd.ChannelConfig{Channel: 5, PageSize: page4K, Level: level})
			if err != nil {
				t.Fatalf("level %d: %v", level, err)
			}
			s.Close()
		}
	})
}

func TestMethod_CleanupIsSafeBeforeTheFirstPacketAndAfterAnError(t *testing.T) {
	forMethods(t, func(t *testing.T, m multifd.Method) {
		cfg := multifd.ChannelConfig{Channel: 3, PageSize: page4K}
		rc, err := multifd.NewReceiver(bytes.NewReader(nil), m, cfg)
		if err != nil {
			t.Fatal(err)
		}
		rc.Close()
		s, err := multifd.NewSender(io.Discard, m, nil, cfg)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		l := layout(t, page4K)
		p := newRawPacket(page4K, uint32(m.Flag()), "pc.ram", offsets(page4K, 0), nil, []byte("rubbish"))
		rc, err = multifd.NewReceiver(bytes.NewReader(p.bytes()), m, cfg)
		if err != nil {
			t.Fatal(err)
		}
		rc.SetLayout(l)
		if _, err := receiveAll(rc, laneOf(t, memory(t, l))); err == nil {
			t.Error("rubbish was taken")
		}
		rc.Close()
	})
}

func ExampleMethodNamed() {
	_, err := multifd.MethodNamed("lz4")
	fmt.Println(err)
	// Output: unknown multifd method "lz4" (known: none, zlib, zstd, qpl, uadk, qatzip)
}
