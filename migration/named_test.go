package migration

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/vmstate"
)

// plainSink and plainLane forward what the interfaces have and nothing else.
type plainSink struct{ in guest.Sink }

func (s plainSink) Setup(l *guest.Layout) error { return s.in.Setup(l) }

func (s plainSink) Lane() (guest.Lane, error) {
	in, err := s.in.Lane()
	return plainLane{in}, err
}

type plainLane struct{ guest.Lane }

// nowhere is a sink that keeps nothing.
type nowhere struct{ pageSize int }

func (n *nowhere) Setup(l *guest.Layout) error { n.pageSize = l.PageSize; return nil }
func (n *nowhere) Lane() (guest.Lane, error)   { return n, nil }
func (n *nowhere) Pages(_ *guest.Block, offsets []uint64) ([][]byte, error) {
	pages := make([][]byte, len(offsets))
	for i := range pages {
		pages[i] = make([]byte, n.pageSize)
	}
	return pages, nil
}
func (n *nowhere) Commit() error                     { return nil }
func (n *nowhere) Zero(*guest.Block, []uint64) error { return nil }
func (n *nowhere) Close() error                      { return nil }

// sinksOfTheTree is every kind of sink that this module has. A new one has to be
// named here.
func sinksOfTheTree(t *testing.T) map[string]func() guest.Sink {
	memory := func() *guestmem.Memory {
		m := new(guestmem.Memory)
		t.Cleanup(func() { m.Close() })
		return m
	}
	return map[string]func() guest.Sink{
		"guestmem.Memory":  func() guest.Sink { return memory() },
		"guestmem.Bounced": func() guest.Sink { return guestmem.Bounced(memory()) },
		"snapshot.Writer": func() guest.Sink {
			dir, err := store.CreateDir(filepath.Join(t.TempDir(), "snapshot"))
			if err != nil {
				t.Fatal(err)
			}
			w, err := snapshot.Create(t.Context(), dir, snapshot.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { w.Abort(t.Context()) })
			return w
		},
		"one that keeps nothing": func() guest.Sink { return new(nowhere) },
	}
}

func TestReceive_MissingPagesPreventStartWithEverySink(t *testing.T) {
	wrappers := map[string]func(guest.Sink) guest.Sink{
		"as it is":      func(s guest.Sink) guest.Sink { return s },
		"wrapped":       func(s guest.Sink) guest.Sink { return plainSink{s} },
		"wrapped twice": func(s guest.Sink) guest.Sink { return plainSink{plainSink{s}} },
	}
	for kind, sink := range sinksOfTheTree(t) {
		for how, wrap := range wrappers {
			t.Run(kind+"/"+how, func(t *testing.T) {
				if _, err := moveSome(t, wrap(sink()), 1024); err != nil {
					t.Fatalf("with all pages: %v", err)
				}
				started, err := moveSome(t, wrap(sink()), 128)
				if started {
					t.Error("the machine was started with 896 of 1024 pages missing")
				}
				if !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), "896 of the 1024 pages") {
					t.Errorf("the destination says %v", err)
				}
			})
		}
	}
}

// moveSome hands a machine of 1,024 pages over by a source that names the first
// pages of them only. It returns what the destination did.
func moveSome(t *testing.T, sink guest.Sink, pages uint64) (started bool, err error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := Receive(t.Context(), ln, ReceiveConfig{
			Wire: Wire{Channels: 2, Method: multifd.None}, Sink: sink, ConnectTimeout: time.Minute,
			Handover: func(in *Inbound) error { started = true; return in.Shut(true) },
		})
		ended <- err
	}()
	source := sourceOf(t, ln, pages)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	select {
	case <-source.returnPath.ended:
	case <-ctx.Done():
		t.Error("the destination does not say how it went")
	}
	source.Close()
	err = <-ended
	return started, err
}

// sourceOf is a source that asks for a handover and has sent all it will.
func sourceOf(t *testing.T, ln net.Listener, pages uint64) *Sender {
	t.Helper()
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "ram", Length: 1024 * 4096}})
	if err != nil {
		t.Fatal(err)
	}
	memory, err := guestmem.New(layout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { memory.Close() })
	for at := 0; at < 1024*4096; at += 3 * 4096 { // data and zero pages
		memory.Bytes(layout.Blocks[0])[at] = 1
	}
	config := vmstate.Configuration{Machine: "some", PageBits: 12, HasUUID: true}
	s, err := Connect(t.Context(), func(context.Context) (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) }, SendConfig{
		Wire: Wire{Channels: 2, Method: multifd.None}, Head: config.Head(), Layout: layout, Zero: ZeroInPackets, ReturnPath: true,
		Pings: []uint32{vmstate.HandoverRequest},
	})
	if err != nil {
		t.Fatal(err)
	}
	named := guest.NewBitmap(layout)
	named.SetRange(0, 0, pages)
	round, err := memory.Dirty(named)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Round(t.Context(), round); err != nil {
		t.Fatal(err)
	}
	devices, err := vmstate.OwnerState(nil, 4096)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.End(t.Context(), devices); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNamedPages_MemoryFollowsNamedPages(t *testing.T) {
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "a", Length: 2 << 30}, {Name: "b", Length: 3 * 4096}})
	if err != nil {
		t.Fatal(err)
	}
	n := newNamedPages(layout)
	n.add(layout.Blocks[1], []uint64{0, 8192})
	n.add(layout.Blocks[1], []uint64{4096, 4096})
	n.add(layout.Blocks[0], []uint64{1 << 30})
	leaves := 0
	for i := range n.blocks {
		for j := range n.blocks[i] {
			branch := n.blocks[i][j].Load()
			for k := 0; branch != nil && k < len(branch); k++ {
				if branch[k].Load() != nil {
					leaves++
				}
			}
		}
	}
	if leaves != 2 {
		t.Errorf("%d leaves for pages in 2 places", leaves)
	}
	if err := n.complete(); !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), `524287 of the 524288 pages of RAM block "a"`) {
		t.Errorf("complete: %v", err)
	}
}
