package linkwire

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
)

// packetUnit is a RAM packet of pages that follow each other from a page on.
func packetUnit(block string, first, pageSize int, pages ...[]byte) Unit {
	h := make([]byte, multifd.HeaderLen(pageSize))
	putHeader(h, 0, guest.PacketPages(pageSize), len(pages), 0, len(pages)*pageSize, 7, block)
	for i := range pages {
		putOffset(h, i, uint64((first+i)*pageSize))
	}
	return Unit{Header: h, Pages: bytes.Join(pages, nil), PageSize: pageSize}
}

func randomPage(seed uint64, pageSize int) []byte {
	rnd := rand.New(rand.NewPCG(seed, 99))
	page := make([]byte, pageSize)
	for i := range page {
		page[i] = byte(rnd.Uint32())
	}
	return page
}

// changed returns a copy of page with another word.
func changed(page []byte, word int) []byte {
	page = bytes.Clone(page)
	page[8*word] ^= 0xff
	return page
}

// sendUnit sends a unit at a level. The other side acknowledges it if acked is set.
func (p *pair) sendUnit(t testing.TB, u Unit, l Level, acked bool) (f *Frame) {
	t.Helper()
	before := len(p.out)
	f = &Frame{Unit: u, Level: l}
	p.send(t, f)
	want := bytes.Join([][]byte{u.Bytes, u.Header, u.Pages}, nil)
	if !bytes.Equal(p.out[before:], want) {
		t.Fatalf("%d bytes came out, %d went in, the first difference is at %d", len(p.out)-before, len(want), firstDifference(p.out[before:], want))
	}
	if acked {
		if err := p.enc.Acknowledge(p.packets); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// TestEncoder_PageSizeChanges: any packet of a stream can have pages of another size.
func TestEncoder_PageSizeChanges(t *testing.T) {
	for l := LevelRaw; l <= LevelZstdBetter; l++ {
		t.Run(l.String(), func(t *testing.T) {
			p := newPair(t, 1<<20, 4096)
			for i, size := range []int{4096, 1024, 65536, 4096, 65536} {
				page := bytes.Repeat([]byte{byte(i + 1), 2}, size/2)
				p.sendUnit(t, packetUnit("pc.ram", 1, size, page, randomPage(uint64(i), size)), l, true)
			}
		})
	}
}

// TestEncoder_CloseUnpinsUnfinishedFrames: a connection can break between Begin and
// Finish, and the cache can belong to other connections as well.
func TestEncoder_CloseUnpinsUnfinishedFrames(t *testing.T) {
	c := NewSenderCache(1<<20, 4096)
	other := NewEncoder(nil)
	other.UseCache(c)
	defer other.Close()
	e := NewEncoder(nil)
	e.UseCache(c)
	f := &Frame{Unit: packetUnit("pc.ram", 1, 4096, randomPage(1, 4096)), Level: LevelZstd}
	if err := e.Begin(f); err != nil {
		t.Fatal(err)
	}
	if n := pins(c); n == 0 {
		t.Error("a frame that is begun pins no slot")
	}
	e.Close()
	e.Close()
	if n := pins(c); n != 0 {
		t.Errorf("%d slots are pinned after Close", n)
	}
}

// pins counts the pins of all slots.
func pins(c *SenderCache) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.slots {
		n += int(c.slots[i].pins)
	}
	return n
}

// TestEncoder_AcknowledgeWhileUseCache is for the race detector: the other side can send
// an ACK frame at any time.
func TestEncoder_AcknowledgeWhileUseCache(t *testing.T) {
	e := NewEncoder(nil)
	defer e.Close()
	var both sync.WaitGroup
	both.Go(func() {
		for range 100 {
			if err := e.Acknowledge(0); err != nil {
				t.Error(err)
			}
		}
	})
	both.Go(func() { e.UseCache(NewSenderCache(1<<20, 4096)) })
	both.Wait()
}

func TestEncoder_AcknowledgeOfPacketsThatWereNotSent(t *testing.T) {
	p := newPair(t, 1<<20, 4096)
	p.sendUnit(t, packetUnit("pc.ram", 1, 4096, randomPage(1, 4096)), LevelDeflate, true)
	if err := p.enc.Acknowledge(2); !errors.Is(err, ErrMalformed) {
		t.Errorf("got %v, want ErrMalformed", err)
	}
}

// TestEncoder_ReusesOnlyAcknowledgedPages shows each form of a page that is sent twice.
func TestEncoder_ReusesOnlyAcknowledgedPages(t *testing.T) {
	a := randomPage(1, 4096)
	for _, tt := range []struct {
		name  string
		acked bool
		again Unit
		want  Forms
	}{
		{"the same page, not acknowledged", false, packetUnit("pc.ram", 1, 4096, a), Forms{Raw: 1}},
		{"the same page", true, packetUnit("pc.ram", 1, 4096, a), Forms{Reference: 1}},
		{"the same page at another place", true, packetUnit("vga.vram", 9, 4096, a), Forms{Reference: 1}},
		{"a changed page", true, packetUnit("pc.ram", 1, 4096, changed(a, 5)), Forms{Difference: 1}},
		{"a changed page, not acknowledged", false, packetUnit("pc.ram", 1, 4096, changed(a, 5)), Forms{Raw: 1}},
		{"a changed page at another place", true, packetUnit("pc.ram", 2, 4096, changed(a, 5)), Forms{Raw: 1}},
		{"another page", true, packetUnit("pc.ram", 1, 4096, randomPage(2, 4096)), Forms{Raw: 1}},
		{"a page twice in a packet", true, packetUnit("pc.ram", 1, 4096, a, a), Forms{Reference: 2}},
		{"a place twice in a packet", true, twice(packetUnit("pc.ram", 1, 4096, changed(a, 5), changed(a, 6))), Forms{Difference: 2}},
	} {
		for _, l := range []Level{LevelDeflate, LevelZstd, LevelZstdBetter} {
			t.Run(tt.name+", "+l.String(), func(t *testing.T) {
				p := newPair(t, 1<<20, 4096)
				want := tt.want
				if l >= LevelZstd {
					want.Zstd, want.Raw = want.Raw, 0
				}
				p.sendUnit(t, packetUnit("pc.ram", 1, 4096, a), l, tt.acked)
				if f := p.sendUnit(t, tt.again, l, true); f.Forms != want {
					t.Errorf("forms %+v, want %+v", f.Forms, want)
				}
				// What was kept of the second packet is right as well.
				p.sendUnit(t, tt.again, l, true)
				if n := pins(p.enc.cache); tt.acked && n != 0 {
					t.Errorf("%d pins are left", n)
				}
			})
		}
	}
}

// twice gives the second page of a packet the place of the first.
func twice(u Unit) Unit {
	copy(u.Header[offsetsAt+8:], u.Header[offsetsAt:offsetsAt+8])
	return u
}

// TestEncoder_ManyUnacknowledgedPackets: the encoder bounds what it remembers.
func TestEncoder_ManyUnacknowledgedPackets(t *testing.T) {
	p := newPair(t, 16<<20, 4096)
	for i := range maxUnacknowledged + 20 {
		p.sendUnit(t, packetUnit("pc.ram", i, 4096, randomPage(uint64(i), 4096)), LevelZstd, false)
	}
	if n := len(p.enc.ledger.waiting); n != maxUnacknowledged {
		t.Errorf("%d packets wait for an acknowledgement, want %d", n, maxUnacknowledged)
	}
	if err := p.enc.Acknowledge(p.packets); err != nil {
		t.Fatal(err)
	}
	if n := pins(p.enc.cache); n != 0 {
		t.Errorf("%d pins are left", n)
	}
}
