package linkwire

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

func TestNewCache_Sizes(t *testing.T) {
	for _, tt := range []struct {
		size     int64
		pageSize int
		slots    int
	}{
		{0, 4096, 0}, {4095, 4096, 0}, {-1, 4096, 0}, {-1 << 63, 4096, 0}, {4096, 4096, 1}, {1 << 20, 1024, 1024},
	} {
		s, r := NewSenderCache(tt.size, tt.pageSize), NewReceiverCache(tt.size, tt.pageSize)
		switch {
		case (s == nil) != (tt.slots == 0) || (r == nil) != (tt.slots == 0):
			t.Errorf("%d bytes: caches %v and %v", tt.size, s != nil, r != nil)
		case s != nil && (len(s.slots) != tt.slots || len(r.versions) != tt.slots || s.Size() != int64(tt.slots*tt.pageSize)):
			t.Errorf("%d bytes: %d and %d slots, want %d", tt.size, len(s.slots), len(r.versions), tt.slots)
		}
	}
}

// TestNewReceiverCache_TakesMemoryAsSlotsAreFilled: a Hello alone takes little memory.
func TestNewReceiverCache_TakesMemoryAsSlotsAreFilled(t *testing.T) {
	c := NewReceiverCache(1<<30, 4096)
	for i, chunk := range c.pages.chunks {
		if chunk != nil {
			t.Fatalf("chunk %d is allocated", i)
		}
	}
	if err := c.store(1000, 1, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, chunk := range c.pages.chunks {
		n += len(chunk)
	}
	if n != chunkSlots*4096 {
		t.Errorf("one page takes %d bytes, want %d", n, chunkSlots*4096)
	}
}

// TestSenderCache_ForgetsAfterTheLastConnection: the other side may drop its cache then.
func TestSenderCache_ForgetsAfterTheLastConnection(t *testing.T) {
	c := NewSenderCache(1<<20, 4096)
	a := randomPage(1, 4096)
	connect := func(r *ReceiverCache) *pair {
		p := newPair(t, 0, 4096)
		p.enc.UseCache(c)
		p.dec.UseCache(r)
		return p
	}
	r := NewReceiverCache(1<<20, 4096)
	first, second := connect(r), connect(r)
	first.sendUnit(t, packetUnit("pc.ram", 1, 4096, a), LevelZstd, true)
	first.enc.Close()
	if f := second.sendUnit(t, packetUnit("pc.ram", 1, 4096, a), LevelZstd, true); f.Forms.Reference != 1 {
		t.Errorf("forms %+v while a connection is open, want a reference", f.Forms)
	}
	second.enc.Close()
	// The other side may have kept its cache, or not.
	for _, r := range []*ReceiverCache{r, NewReceiverCache(1<<20, 4096)} {
		p := connect(r)
		if f := p.sendUnit(t, packetUnit("pc.ram", 1, 4096, a), LevelZstd, true); f.Forms.Zstd != 1 {
			t.Errorf("forms %+v after the last connection was closed, want the page itself", f.Forms)
		}
		p.sendUnit(t, packetUnit("pc.ram", 1, 4096, changed(a, 3)), LevelZstd, true)
		p.enc.Close()
	}
}

// TestSenderCache_KeepsPagesThatAreSentAgain: pages that are sent once do not replace
// pages that are sent again and again.
func TestSenderCache_KeepsPagesThatAreSentAgain(t *testing.T) {
	const slots = 32
	p := newPair(t, slots*4096, 4096)
	hot := randomPage(1, 4096)
	for i := range 3 {
		p.sendUnit(t, packetUnit("pc.ram", 0, 4096, changed(hot, i)), LevelZstd, true)
	}
	for i := range 10 * slots {
		p.sendUnit(t, packetUnit("pc.ram", 100+i, 4096, randomPage(uint64(100+i), 4096)), LevelZstd, true)
	}
	if f := p.sendUnit(t, packetUnit("pc.ram", 0, 4096, changed(hot, 9)), LevelZstd, true); f.Forms.Difference != 1 {
		t.Errorf("forms %+v, want a difference: the hot page was evicted", f.Forms)
	}
}

// TestSenderCache_NamesAreBounded: a stream cannot name RAM blocks without end.
func TestSenderCache_NamesAreBounded(t *testing.T) {
	c := NewSenderCache(1<<20, 4096)
	for i := range mostNames + 10 {
		n, ok := c.blockNumber(fmt.Appendf(nil, "block %d", i))
		if ok != (i < mostNames) || ok && int(n) != i {
			t.Fatalf("name %d has the number %d, %v", i, n, ok)
		}
	}
	if n, ok := c.blockNumber([]byte("block 7")); n != 7 || !ok {
		t.Errorf("a known name has the number %d, %v", n, ok)
	}
}

// TestSenderCache_PinnedSlotsAreNotRefilled sends frames of several connections,
// acknowledges them in any order, closes connections and makes new ones. A model keeps
// which slots and versions the frames that are not acknowledged use or fill.
func TestSenderCache_PinnedSlotsAreNotRefilled(t *testing.T) {
	for seed := range uint64(times(200, 5000)) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		m := newCacheModel(rnd)
		for range 200 {
			m.step(t, rnd)
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
		m.end(t)
	}
}

// cacheModel is a SenderCache, and what has to be true of it.
type cacheModel struct {
	cache   *SenderCache
	conns   []*modelConn
	content map[slotAt][]byte // what the other side has when it has read all frames
	acked   map[slotAt]bool
	frame   Frame
}

type modelConn struct {
	enc    *Encoder
	frames []modelFrame // that are not acknowledged
	sent   uint64
}

type modelFrame struct{ uses, fills []slotAt }

func newCacheModel(rnd *rand.Rand) *cacheModel {
	m := &cacheModel{cache: NewSenderCache(int64(1+rnd.IntN(24))*1024, 1024), content: map[slotAt][]byte{}, acked: map[slotAt]bool{}}
	for range 4 {
		m.conns = append(m.conns, m.connect())
	}
	return m
}

func (m *cacheModel) connect() *modelConn {
	c := &modelConn{enc: NewEncoder(nil)}
	c.enc.UseCache(m.cache)
	return c
}

func (m *cacheModel) step(t *testing.T, rnd *rand.Rand) {
	i := rnd.IntN(len(m.conns))
	c := m.conns[i]
	switch rnd.IntN(16) {
	case 0: // the connection breaks
		c.enc.Close()
		m.conns[i] = m.connect()
	case 1, 2, 3, 4, 5:
		n := rnd.IntN(len(c.frames) + 1)
		if err := c.enc.Acknowledge(c.sent - uint64(len(c.frames)-n)); err != nil {
			t.Fatal(err)
		}
		for _, f := range c.frames[:n] {
			for _, s := range f.fills {
				m.acked[s] = true
			}
		}
		c.frames = c.frames[n:]
	default:
		m.send(t, rnd, c)
	}
}

// send sends a frame and compares what the encoder does with the model.
func (m *cacheModel) send(t *testing.T, rnd *rand.Rand, c *modelConn) {
	var pages [][]byte
	for range 1 + rnd.IntN(4) {
		pages = append(pages, changed(bytes.Repeat([]byte{1 + byte(rnd.IntN(6))}, 1024), rnd.IntN(3)))
	}
	f := &m.frame
	f.Unit, f.Level = packetUnit("pc.ram", rnd.IntN(12), 1024, pages...), LevelDeflate
	if err := c.enc.Begin(f); err != nil {
		t.Fatal(err)
	}
	c.sent++
	var is modelFrame
	for i := range f.pages {
		p := &f.pages[i]
		switch p.form {
		case formReference:
			m.mayUse(t, p.equal)
			is.uses = append(is.uses, p.equal)
			if !bytes.Equal(m.content[p.equal], p.page) {
				t.Errorf("a reference to slot %d, version %d, which has another page", p.equal.slot, p.equal.version)
			}
		case formDifference:
			m.mayUse(t, p.base)
			is.uses = append(is.uses, p.base)
			page := bytes.Clone(m.content[p.base])
			if applyDifference(page, p.diff) != nil || !bytes.Equal(page, p.page) {
				t.Errorf("a difference to slot %d, version %d, which has another page", p.base.slot, p.base.version)
			}
		}
	}
	for i := range f.pages {
		p := &f.pages[i]
		if p.fill.none() {
			continue
		}
		m.mayFill(t, p.fill.slot, is)
		is.fills = append(is.fills, p.fill)
		m.content[p.fill] = bytes.Clone(p.page)
	}
	c.frames = append(c.frames, is)
	if err := c.enc.Finish(f); err != nil {
		t.Fatal(err)
	}
}

func (m *cacheModel) mayUse(t *testing.T, s slotAt) {
	if !m.acked[s] {
		t.Errorf("slot %d, version %d is used and not acknowledged", s.slot, s.version)
	}
	for other := range m.content {
		if other.slot == s.slot && other.version > s.version {
			t.Errorf("slot %d, version %d is used, but has version %d by now", s.slot, s.version, other.version)
		}
	}
}

// mayFill reports a slot that a frame uses or fills, of any connection or the same frame.
func (m *cacheModel) mayFill(t *testing.T, slot int, same modelFrame) {
	frames := []modelFrame{same}
	for _, c := range m.conns {
		frames = append(frames, c.frames...)
	}
	for _, f := range frames {
		for _, s := range append(append([]slotAt(nil), f.uses...), f.fills...) {
			if s.slot == slot {
				t.Errorf("slot %d is filled, but a frame with its version %d is not acknowledged", slot, s.version)
			}
		}
	}
}

// end closes all connections. Nothing stays pinned.
func (m *cacheModel) end(t *testing.T) {
	for _, c := range m.conns {
		c.enc.Close()
	}
	if n := pins(m.cache); n != 0 {
		t.Errorf("%d pins are left", n)
	}
}
