package linkwire

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
)

// migration is several connections of one migration, whose frames and acknowledgements
// arrive late and in any order among the connections.
type migration struct {
	sender   *SenderCache
	receiver *ReceiverCache
	conns    []*conn
	forms    Forms
	level    Level
	frame    Frame
}

// conn is one connection. Its frames arrive in their order.
type conn struct {
	enc     *Encoder
	dec     *Decoder
	link    bytes.Buffer // what the decoder reads
	frames  [][]byte     // on their way
	sent    [][]byte     // the bytes of these frames
	acks    []uint64     // on their way back
	packets uint64       // read
	broken  error
}

func newMigration(conns, slots, pageSize int) *migration {
	size := int64(slots * pageSize)
	m := &migration{sender: NewSenderCache(size, pageSize), receiver: NewReceiverCache(size, pageSize), level: LevelDeflate}
	for range conns {
		c := &conn{enc: NewEncoder(nil)}
		c.dec = NewDecoder(&c.link, nil)
		c.enc.UseCache(m.sender)
		c.dec.UseCache(m.receiver)
		m.conns = append(m.conns, c)
	}
	return m
}

func (m *migration) close() {
	for _, c := range m.conns {
		c.enc.Close()
		c.dec.Close()
	}
}

// send makes a frame, which is then on its way.
func (m *migration) send(t testing.TB, c *conn, u Unit) {
	f := &m.frame // its memory is used again
	f.Unit, f.Level = u, m.level
	if err := c.enc.Begin(f); err != nil {
		t.Fatal(err)
	}
	if err := c.enc.Finish(f); err != nil {
		t.Fatal(err)
	}
	m.forms.Add(f.Forms)
	c.frames = append(c.frames, bytes.Join(f.Out, nil))
	c.sent = append(c.sent, bytes.Join([][]byte{u.Bytes, u.Header, u.Pages}, nil))
}

// deliver lets the first frame of a connection arrive. It reports false if its bytes are
// other ones.
func (c *conn) deliver(t testing.TB) bool {
	c.link.Write(c.frames[0])
	want := c.sent[0]
	c.frames, c.sent = c.frames[1:], c.sent[1:]
	var e Event
	if c.broken = c.dec.Next(&e); c.broken != nil {
		return e.Bytes == nil
	}
	if e.Kind == KindPacket {
		c.packets++
		c.acks = append(c.acks, c.packets)
	}
	return bytes.Equal(e.Bytes, want)
}

// step does one thing on one connection.
func (m *migration) step(t testing.TB, rnd *rand.Rand, memory [][]byte) (ok bool) {
	c := m.conns[rnd.IntN(len(m.conns))]
	switch what := rnd.IntN(8); {
	case c.broken != nil:
	case what < 3 && len(c.frames) < 6:
		m.send(t, c, someUnit(rnd, memory))
	case what < 6 && len(c.frames) > 0:
		return c.deliver(t)
	case len(c.acks) > 0:
		// An ACK frame can stand for several packets.
		n := rnd.IntN(len(c.acks))
		if err := c.enc.Acknowledge(c.acks[n]); err != nil {
			t.Fatal(err)
		}
		c.acks = c.acks[n+1:]
	}
	return true
}

// someUnit is a packet of a guest that writes to a few pages.
func someUnit(rnd *rand.Rand, memory [][]byte) Unit {
	first := rnd.IntN(len(memory))
	var pages [][]byte
	for i := range min(1+rnd.IntN(4), len(memory)-first) {
		page := memory[first+i]
		switch rnd.IntN(4) {
		case 0:
			copy(page, memory[rnd.IntN(len(memory))])
		case 1, 2:
			page[rnd.IntN(len(page))] = byte(rnd.Uint32())
		}
		pages = append(pages, page)
	}
	return packetUnit("pc.ram", first, len(memory[0]), pages...)
}

func someMemory(rnd *rand.Rand, pages int) (memory [][]byte) {
	for range pages {
		memory = append(memory, somePage(rnd, 1024))
	}
	return memory
}

// TestConnections_FramesInAnyOrder: the connections of a migration run at different
// speeds. All bytes come out, whatever the order.
func TestConnections_FramesInAnyOrder(t *testing.T) {
	var forms Forms
	for seed := range uint64(times(2000, 100000)) {
		rnd := rand.New(rand.NewPCG(seed, 8))
		m := newMigration(1+rnd.IntN(4), 1+rnd.IntN(24), 1024)
		memory := someMemory(rnd, 16)
		if seed%100 == 0 {
			m.level = LevelZstd // whose streams take much memory
		}
		for step := range 120 {
			if !m.step(t, rnd, memory) {
				t.Fatalf("seed %d, step %d: other bytes come out", seed, step)
			}
		}
		for i, c := range m.conns {
			for c.broken == nil && len(c.frames) > 0 {
				if !c.deliver(t) {
					t.Fatalf("seed %d: other bytes come out of connection %d", seed, i)
				}
			}
			if c.broken != nil {
				t.Fatalf("seed %d: connection %d: %v", seed, i, c.broken)
			}
		}
		m.close()
		forms.Add(m.forms)
	}
	t.Logf("pages %+v", forms)
	if least := uint64(times(2000, 2000)); forms.Difference < least || forms.Reference < least {
		t.Errorf("pages %+v, want %d differences and references at least", forms, least)
	}
}

// TestConnections_BrokenOnesLeaveTheOthers: a connection breaks while its frames are on
// their way. The ones that arrived, late perhaps, do no harm to the other connections.
func TestConnections_BrokenOnesLeaveTheOthers(t *testing.T) {
	for seed := range uint64(times(500, 50000)) {
		rnd := rand.New(rand.NewPCG(seed, 9))
		m := newMigration(3, 1+rnd.IntN(12), 1024)
		memory := someMemory(rnd, 12)
		breaks := rnd.IntN(100)
		var late *conn
		for step := range 160 {
			if step == breaks {
				late, m.conns = m.conns[0], m.conns[1:]
				late.enc.Close()
			}
			// What is still on its way of the broken connection arrives some time.
			if late != nil && late.broken == nil && len(late.frames) > 0 && rnd.IntN(6) == 0 {
				if !late.deliver(t) {
					t.Fatalf("seed %d: other bytes come out of the broken connection", seed)
				}
				if late.broken != nil && !errors.Is(late.broken, ErrCacheMismatch) {
					t.Fatalf("seed %d: got %v, want ErrCacheMismatch", seed, late.broken)
				}
			}
			if !m.step(t, rnd, memory) {
				t.Fatalf("seed %d, step %d: other bytes come out", seed, step)
			}
		}
		for _, c := range m.conns {
			if c.broken != nil {
				t.Fatalf("seed %d: %v", seed, c.broken)
			}
		}
		m.close()
	}
}

// TestConnections_CorruptedCache: a cache of one side is damaged. No wrong byte comes
// out; at the first page that is taken from there, the migration ends.
func TestConnections_CorruptedCache(t *testing.T) {
	found := 0
	for seed := range uint64(times(500, 50000)) {
		rnd := rand.New(rand.NewPCG(seed, 10))
		m := newMigration(2, 8, 1024)
		memory := someMemory(rnd, 8)
		for step := range 200 {
			if step == 60 {
				corrupt(rnd, m)
			}
			if !m.step(t, rnd, memory) {
				t.Fatalf("seed %d, step %d: other bytes come out", seed, step)
			}
		}
		m.close()
		for _, c := range m.conns {
			if c.broken == nil {
				continue
			}
			found++
			if !errors.Is(c.broken, ErrCacheMismatch) {
				t.Fatalf("seed %d: got %v, want ErrCacheMismatch", seed, c.broken)
			}
		}
	}
	if least := times(100, 100); found < least {
		t.Errorf("%d connections were ended, want %d at least", found, least)
	}
}

// corrupt damages a page or a version of a cache, on one of the sides.
func corrupt(rnd *rand.Rand, m *migration) {
	for s, v := range m.receiver.versions {
		if v == 0 {
			continue
		}
		switch rnd.IntN(3) {
		case 0:
			m.receiver.pages.at(s)[rnd.IntN(1024)] ^= 1
		case 1:
			m.receiver.versions[s]++
		case 2:
			m.sender.pages.at(s)[rnd.IntN(1024)] ^= 1
		}
	}
}

// TestConnections_AtOnce is for the race detector: each connection has goroutines of its
// own, one of which takes the acknowledgements.
func TestConnections_AtOnce(t *testing.T) {
	m := newMigration(4, 24, 1024)
	defer m.close()
	var all sync.WaitGroup
	for i, c := range m.conns {
		acks := make(chan uint64, 64)
		all.Go(func() {
			for packets := range acks {
				if err := c.enc.Acknowledge(packets); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() {
			defer close(acks)
			rnd := rand.New(rand.NewPCG(uint64(i), 11))
			memory := someMemory(rand.New(rand.NewPCG(1, 11)), 16) // equal ones
			var f Frame
			for range 200 {
				f.Unit, f.Level = someUnit(rnd, memory), LevelDeflate
				want := bytes.Join([][]byte{f.Header, f.Pages}, nil)
				if err := errors.Join(c.enc.Begin(&f), c.enc.Finish(&f)); err != nil {
					t.Error(err)
					return
				}
				c.link.Write(bytes.Join(f.Out, nil))
				var e Event
				if err := c.dec.Next(&e); err != nil || !bytes.Equal(e.Bytes, want) {
					t.Errorf("connection %d: %d bytes come out, want %d; %v", i, len(e.Bytes), len(want), err)
					return
				}
				c.packets++
				acks <- c.packets
			}
		})
	}
	all.Wait()
}
