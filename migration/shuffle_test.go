package migration_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/soak"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/migration/stored"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store/storetest"
	"github.com/vmferry/vmferry/vmstate"
)

// A schedule is a migration of several rounds, in which pages come again over
// other channels, and an order in which the bytes of its connections arrive.
// All of it follows from the seed.
type schedule struct {
	rng    *rand.Rand
	layout *guest.Layout
	method multifd.Method
	mode   vmstate.SyncMode
	conns  []*bytes.Buffer // 0 is the main channel
	want   [][]byte        // memory at the end, by block
}

const shufflePages = 48

func newSchedule(t testing.TB, seed uint64) *schedule {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 17))
	layout, err := guest.NewLayout(4096, []guest.Block{
		{Name: "pc.ram", Length: shufflePages * 4096}, {Name: "vga.vram", Length: 8 * 4096},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &schedule{rng: rng, layout: layout, mode: vmstate.SyncMode(rng.IntN(2))}
	all := multifd.Methods()
	s.method = multifd.None // mostly: a codec takes long to set up
	if rng.IntN(4) == 0 {
		s.method = all[rng.IntN(len(all))]
	}
	for _, b := range layout.Blocks {
		s.want = append(s.want, make([]byte, b.Length))
	}
	for range 2 + rng.IntN(4) {
		s.conns = append(s.conns, new(bytes.Buffer))
	}
	s.write(t)
	return s
}

// write writes what a source would have sent.
func (s *schedule) write(t testing.TB) {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	var num atomic.Uint64
	main := vmstate.NewWriter(s.conns[0], s.layout, s.mode)
	must(main.Head((&vmstate.Configuration{Machine: "pc-q35-9.0"}).Head()))
	must(main.Setup())
	var senders []*multifd.Sender
	for i, c := range s.conns[1:] {
		sender, err := multifd.NewSender(c, s.method, &num, multifd.ChannelConfig{Channel: i, PageSize: 4096})
		must(err)
		defer sender.Close()
		must(sender.Handshake([16]byte{1}))
		must(sender.Sync())
		senders = append(senders, sender)
	}
	rounds := 2 + s.rng.IntN(5)
	for round := range rounds {
		must(main.BeginSection(round == rounds-1))
		for _, b := range s.layout.Blocks {
			s.round(t, main, senders, b)
		}
		for _, sender := range senders {
			must(sender.Sync())
		}
		must(main.EndSection())
	}
	must(main.Devices(devicesForTest()))
}

// round sends some pages of a block: each once, by a channel of its own or,
// if it is zero, perhaps by the main channel.
func (s *schedule) round(t testing.TB, main *vmstate.Writer, senders []*multifd.Sender, b *guest.Block) {
	t.Helper()
	batches := make([]guest.Batch, len(senders))
	for i := range batches {
		batches[i].Block = b
	}
	for page := range s.layout.Pages(b) {
		off := page * 4096
		to := &batches[s.rng.IntN(len(batches))]
		mem := s.want[b.Index][off : off+4096]
		switch s.rng.IntN(5) {
		case 0: // stays as it is
		case 1:
			clear(mem)
			to.Zero = append(to.Zero, off)
		case 2:
			clear(mem)
			if err := main.Zero(b, off); err != nil {
				t.Fatal(err)
			}
		default:
			s.scribble(mem)
			to.Normal = append(to.Normal, off)
			to.Data = append(to.Data, bytes.Clone(mem))
		}
	}
	for i, sender := range senders {
		if err := sender.Send(&batches[i]); err != nil {
			t.Fatal(err)
		}
	}
}

// scribble makes a page of which part is random.
func (s *schedule) scribble(mem []byte) {
	clear(mem)
	for i := 0; i < 8*(1+s.rng.IntN(len(mem)/8)); i += 8 {
		binary.LittleEndian.PutUint64(mem[i:], s.rng.Uint64())
	}
	mem[0] |= 1
}

// devicesForTest is a device section, the end and a description.
func devicesForTest() []byte {
	text := `{"page_size": 4096, "devices": [{"name": "test", "instance_id": 0, "vmsd_name": "test", "version": 1}]}`
	b := append([]byte{0x04, 0, 0, 0, 9, 4}, "test"...)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 1, 'd', 'a', 't', 'a', 0x7e, 0, 0, 0, 9)
	b = append(b, 0, 6)
	b = binary.BigEndian.AppendUint32(b, uint32(len(text)))
	return append(b, text...)
}

// deliver hands the bytes of all connections to their readers, in pieces and
// in an order of the seed.
func (s *schedule) deliver(readers []*feed) {
	left := make([][]byte, len(s.conns))
	for i, c := range s.conns {
		left[i] = c.Bytes()
	}
	for open := len(left); open > 0; {
		i := s.rng.IntN(len(left))
		if left[i] == nil {
			continue
		}
		n := min(len(left[i]), 1+s.rng.IntN(1<<uint(s.rng.IntN(16))))
		readers[i].put(left[i][:n])
		if left[i] = left[i][n:]; len(left[i]) == 0 {
			left[i] = nil
			readers[i].Close()
			open--
		}
	}
}

// feed is a connection that a schedule delivers to. Closing it ends what can
// be read after what was put.
type feed struct {
	mu     sync.Mutex
	more   sync.Cond
	data   []byte
	closed bool
}

func newFeed() *feed {
	f := new(feed)
	f.more.L = &f.mu
	return f
}

func (f *feed) put(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.data = append(f.data, b...)
	f.more.Broadcast()
}

func (f *feed) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.data) == 0 {
		if f.closed {
			return 0, io.EOF
		}
		f.more.Wait()
	}
	n := copy(p, f.data)
	f.data = f.data[n:]
	return n, nil
}

func (f *feed) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.more.Broadcast()
	return nil
}

func (f *feed) Write(p []byte) (int, error)      { return len(p), nil }
func (f *feed) LocalAddr() net.Addr              { return &net.UnixAddr{Name: "here"} }
func (f *feed) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "there"} }
func (f *feed) SetDeadline(time.Time) error      { return nil }
func (f *feed) SetReadDeadline(time.Time) error  { return nil }
func (f *feed) SetWriteDeadline(time.Time) error { return nil }

// feeds is a listener of connections in a given order.
type feeds struct {
	conns chan net.Conn
	once  sync.Once
}

func (l *feeds) Accept() (net.Conn, error) {
	if c, ok := <-l.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l *feeds) Close() error   { l.once.Do(func() { close(l.conns) }); return nil }
func (l *feeds) Addr() net.Addr { return &net.UnixAddr{Name: "here"} }

// receive runs the schedule into a sink.
func (s *schedule) receive(sink guest.Sink) (*migration.Received, error) {
	readers := make([]*feed, len(s.conns))
	ln := &feeds{conns: make(chan net.Conn, len(s.conns))}
	for i := range readers {
		readers[i] = newFeed()
	}
	for _, i := range s.rng.Perm(len(readers)) {
		ln.conns <- readers[i]
	}
	go s.deliver(readers)
	return migration.Receive(context.Background(), ln, migration.ReceiveConfig{
		Wire: migration.Wire{Channels: len(s.conns) - 1, Method: s.method}, Sink: sink, ConnectTimeout: time.Minute,
	})
}

// schedules is how many orders of arrival are tried.
func schedules() uint64 { return uint64(soak.Times(300, 5000)) }

func TestReceive_NewestWriteWinsInEveryOrderOfArrival(t *testing.T) {
	for seed := range schedules() {
		s := newSchedule(t, seed)
		mem := new(guestmem.Memory)
		if _, err := s.receive(mem); err != nil {
			t.Fatalf("seed %d (%s, sync per %v, %d channels): %v", seed, s.method.Name(), s.mode, len(s.conns)-1, err)
		}
		for i, b := range mem.Layout().Blocks {
			if at := firstDifference(mem.Bytes(b), s.want[i]); at >= 0 {
				t.Fatalf("seed %d (%s, sync per %v, %d channels): RAM block %q differs at %#x", seed, s.method.Name(), s.mode, len(s.conns)-1, b.Name, at)
			}
		}
		mem.Close()
	}
}

func TestReceive_NewestWriteWinsInASnapshot(t *testing.T) {
	stores := []snapshot.Store{snapshot.StoreFast, snapshot.StoreDense, snapshot.StoreZstd, snapshot.StoreRaw}
	for seed := range schedules() / 5 {
		s := newSchedule(t, seed)
		bucket := storetest.NewBucket()
		w, err := snapshot.Create(t.Context(), bucket, snapshot.Options{Store: stores[seed%4], ObjectSize: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		received, err := s.receive(w)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		m, err := w.Finish(t.Context(), stored.Meta(received))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if 4*m.Totals.Superseded > m.Totals.Superseded+m.Totals.Pages {
			t.Errorf("seed %d: %d superseded pages are kept beside %d", seed, m.Totals.Superseded, m.Totals.Pages)
		}
		r, err := snapshot.Open(t.Context(), bucket, snapshot.OpenOptions{})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		page := make([]byte, 4096)
		for i, b := range r.Layout().Blocks {
			for off := uint64(0); off < b.Length; off += 4096 {
				if err := r.Page(t.Context(), b, off, page); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if !bytes.Equal(page, s.want[i][off:off+4096]) {
					t.Fatalf("seed %d (%s): RAM block %q differs at %#x", seed, s.method.Name(), b.Name, off)
				}
			}
		}
		r.Close()
	}
}

func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}
