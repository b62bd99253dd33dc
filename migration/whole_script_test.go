package migration_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/vmstate"
)

// A wholeScript renders the bytes of a fuzzer as a whole migration: a header of
// four bytes, then events. The framing of each packet, record and section is
// right; their order, number and content are the script's. Beside the bytes of
// the connections it keeps a model of the memory that they make.
type wholeScript struct {
	t      testing.TB
	in     []byte
	layout *guest.Layout
	method multifd.Method
	mode   vmstate.SyncMode

	conns   []*wholeConn // 0 is the main channel
	extra   []*wholeConn // connections that no migration has
	main    *vmstate.Writer
	num     atomic.Uint64
	inside  bool // a section of RAM is open
	ramOver bool // the main channel has begun the last section of RAM
	ended   bool // the main channel is at its end
	writes  []wholeWrite
	// torn are the pages that two connections write between the same sync points,
	// which no QEMU does: their content is any mixture, and a checksum can be wrong.
	torn    map[wholePage]bool
	faulty  bool // the script broke the protocol: an error is as right as success
	altered bool // bytes were changed, and the model does not hold
	silent  bool // a connection stays open and sends nothing
}

// wholeConn is what one connection carries. syncs are its sync points so far.
type wholeConn struct {
	bytes.Buffer
	sender *multifd.Sender
	syncs  int
	closed bool
	silent bool
}

// wholePage names a page.
type wholePage struct{ block, page int }

// wholeWrite is a page that a connection carries behind its syncs-th sync point.
type wholeWrite struct {
	block, page, conn, syncs int
	end                      int // the byte of the connection behind it
	data                     []byte
}

const (
	wholePages  = 8 // of each block
	wholeBlocks = 2
	// wholeEvents bounds the events of one script.
	wholeEvents = 128
)

func newWholeScript(t testing.TB, in []byte) *wholeScript {
	t.Helper()
	layout, err := guest.NewLayout(4096, []guest.Block{
		{Name: "pc.ram", Length: wholePages * 4096}, {Name: "vga.vram", Length: wholePages * 4096},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &wholeScript{t: t, in: in, layout: layout, method: multifd.None, torn: map[wholePage]bool{}}
	kind, method := s.next(), s.next()
	s.mode = vmstate.SyncMode(kind & 1)
	if all := multifd.Methods(); int(method) < len(all) { // else none: a codec takes long to set up
		s.method = all[method]
	}
	for range 2 + int(kind>>1)%4 {
		s.conns = append(s.conns, new(wholeConn))
	}
	s.begin(kind&0x80 != 0)
	for range wholeEvents {
		if len(s.in) == 0 || s.ended {
			break
		}
		s.event()
	}
	if !s.ended {
		s.finish()
	}
	s.must(s.main.Flush())
	for _, c := range s.conns[1:] {
		c.sender.Close()
	}
	return s
}

func (s *wholeScript) must(err error) {
	if err != nil {
		s.t.Helper()
		s.t.Fatal(err)
	}
}

// next takes a byte of the script; behind its end there are zeros.
func (s *wholeScript) next() byte {
	if len(s.in) == 0 {
		return 0
	}
	b := s.in[0]
	s.in = s.in[1:]
	return b
}

func (s *wholeScript) begin(returnPath bool) {
	main := s.conns[0]
	s.main = vmstate.NewWriter(main, s.layout, s.mode)
	s.must(s.main.Head((&vmstate.Configuration{Machine: "pc-q35-9.0"}).Head()))
	if returnPath {
		for _, c := range vmstate.OpenReturnPath() {
			s.must(s.main.Command(c))
		}
	}
	s.must(s.main.Setup())
	main.syncs++
	for i, c := range s.conns[1:] {
		sender, err := multifd.NewSender(c, s.method, &s.num, multifd.ChannelConfig{Channel: i, PageSize: 4096})
		s.must(err)
		c.sender = sender
		s.must(sender.Handshake([16]byte{1}))
		s.sync(c)
	}
}

// channel picks a multifd channel.
func (s *wholeScript) channel() *wholeConn { return s.conns[1+int(s.next())%(len(s.conns)-1)] }

// sync sends a SYNC on a channel.
func (s *wholeScript) sync(c *wholeConn) {
	if !c.closed {
		s.must(c.sender.Sync())
		c.syncs++
	}
}

// open opens a section of RAM, unless one is open.
func (s *wholeScript) open(last bool) {
	if s.inside || s.conns[0].closed {
		return
	}
	s.must(s.main.BeginSection(last))
	s.inside, s.ramOver = true, s.ramOver || last
}

// end ends a section of RAM, if one is open, with a sync point of the main channel.
func (s *wholeScript) end() {
	if !s.inside || s.conns[0].closed {
		return
	}
	s.must(s.main.EndSection())
	s.conns[0].syncs++
	s.inside = false
}

// meet is a sync point of all.
func (s *wholeScript) meet() {
	s.open(false)
	for _, c := range s.conns[1:] {
		s.sync(c)
	}
	s.end()
}

// finish ends the migration.
func (s *wholeScript) finish() {
	if s.inside {
		s.meet()
	}
	s.open(true)
	for _, c := range s.conns[1:] {
		s.sync(c)
	}
	s.end()
	if !s.conns[0].closed {
		s.must(s.main.Devices(devicesForTest()))
	}
	s.ended = true
}

// event renders the next event. Those up to 4 keep to the protocol.
func (s *wholeScript) event() {
	switch s.next() % 20 {
	case 0, 1:
		s.pages(s.channel(), false)
	case 2:
		s.record()
	case 3:
		s.meet()
	case 4:
		s.command(vmstate.Ping(uint32(s.next())))
	case 5:
		s.deviceState(s.channel())
	case 6: // a SYNC that the others have not
		s.faulty = true
		s.sync(s.channel())
	case 7: // a sync point of the main channel that the others have not
		s.faulty = true
		s.open(false)
		s.end()
	case 8: // pages and SYNC in one packet, as QEMU 7.2 sends them
		s.faulty = true
		s.pages(s.channel(), true)
	case 9:
		s.faulty = true
		s.cut(s.conns[int(s.next())%len(s.conns)], int(s.next()))
	case 10:
		s.faulty = true
		s.cut(s.conns[int(s.next())%len(s.conns)], 0)
	case 11:
		s.faulty = true
		s.alter(s.conns[int(s.next())%len(s.conns)], int(s.next()), s.next())
	case 12:
		s.faulty, s.silent = true, true
		s.conns[int(s.next())%len(s.conns)].silent = true
	case 13:
		s.faulty = true
		s.connect(s.next())
	case 14: // the end of RAM before its time
		s.faulty = true
		s.open(true)
		s.end()
	case 15: // devices before their time
		// Behind the end of RAM a destination takes all that follows for device
		// state, which has no lengths: the pages that follow do not count.
		s.faulty, s.altered = true, s.altered || s.ramOver
		s.rawMain(devicesForTest())
	case 16: // a second setup
		s.faulty = true
		if !s.conns[0].closed {
			s.must(s.main.Setup())
			s.conns[0].syncs++
		}
	case 17:
		s.faulty = true
		s.command(vmstate.Command{ID: vmstate.CommandID(s.next() % 16), Data: make([]byte, s.next())})
	case 18: // a record with any flags and no page behind it
		s.faulty, s.altered = true, true
		s.open(false)
		s.rawMain(binary.BigEndian.AppendUint64(nil, uint64(s.next())<<12|uint64(s.next())<<4))
	case 19: // what no order has
		s.faulty, s.altered = true, true
		s.rawMain([]byte{s.next()})
	}
}

// rawMain writes bytes to the main channel.
func (s *wholeScript) rawMain(b []byte) {
	if !s.conns[0].closed {
		s.must(s.main.Flush())
		s.conns[0].Write(b)
	}
}

func (s *wholeScript) command(c vmstate.Command) {
	if s.inside {
		s.meet()
	}
	if !s.conns[0].closed {
		s.must(s.main.Command(c))
	}
}

func (s *wholeScript) deviceState(c *wholeConn) {
	data := bytes.Repeat([]byte{s.next()}, int(s.next()))
	if s.method != multifd.None {
		s.faulty = true // not of QEMU
	}
	if !c.closed {
		s.must(c.sender.SendDeviceState(&devicestate.Packet{ID: "0000:00:05.0/vfio", Data: data}))
	}
}

// page is the content that a byte stands for: 0 is a zero page.
func (s *wholeScript) page(seed byte) []byte {
	data := make([]byte, 4096)
	if seed == 0 {
		return data
	}
	rng := rand.New(rand.NewPCG(uint64(seed), 1))
	for i := range 64 * int(1+seed%8) {
		binary.LittleEndian.PutUint64(data[8*i:], rng.Uint64()|1)
	}
	return data
}

// pages sends a packet of pages over a channel, perhaps with a SYNC in it.
func (s *wholeScript) pages(c *wholeConn, withSync bool) {
	s.must(s.main.Flush())
	where, count := s.next(), 1+int(s.next())%4
	block := s.layout.Blocks[int(where>>4)%wholeBlocks]
	batch := &guest.Batch{Block: block}
	var writes []wholeWrite
	for i := range count {
		page, data := (int(where)+i)%wholePages, s.page(s.next())
		writes = append(writes, wholeWrite{block: block.Index, page: page, data: data})
		if off := uint64(page) * 4096; data[0] == 0 {
			batch.Zero = append(batch.Zero, off)
		} else {
			batch.Normal = append(batch.Normal, off)
			batch.Data = append(batch.Data, data)
		}
	}
	if c.closed {
		return
	}
	at := c.Len()
	s.must(c.sender.Send(batch))
	if withSync && c.Len() > at {
		c.Bytes()[at+11] |= byte(multifd.FlagSync)
	}
	s.note(c, writes)
	if withSync {
		c.syncs++
	}
}

// record writes a page into the main channel itself.
func (s *wholeScript) record() {
	s.open(false)
	where, data := s.next(), s.page(s.next())
	block, page := s.layout.Blocks[int(where>>4)%wholeBlocks], int(where)%wholePages
	if s.conns[0].closed {
		return
	}
	if off := uint64(page) * 4096; data[0] == 0 {
		s.must(s.main.Zero(block, off))
	} else {
		s.must(s.main.Page(block, off, data))
	}
	s.must(s.main.Flush())
	s.note(s.conns[0], []wholeWrite{{block: block.Index, page: page, data: data}})
}

func (s *wholeScript) note(c *wholeConn, writes []wholeWrite) {
	for _, w := range writes {
		w.conn, w.syncs, w.end = slices.Index(s.conns, c), c.syncs, c.Len()
		if slices.ContainsFunc(s.writes, func(o wholeWrite) bool {
			return o.block == w.block && o.page == w.page && o.syncs == w.syncs && o.conn != w.conn
		}) {
			s.faulty, s.torn[wholePage{w.block, w.page}] = true, true
		}
		s.writes = append(s.writes, w)
	}
}

// cut takes bytes off the end of a connection, and ends it there.
func (s *wholeScript) cut(c *wholeConn, n int) {
	s.must(s.main.Flush())
	c.closed = true
	c.Truncate(max(c.Len()-n, 0))
	i := slices.Index(s.conns, c)
	if c.Len() < multifd.HandshakeLen {
		s.silent = true // it may not say what it is, and is waited for
	}
	s.writes = slices.DeleteFunc(s.writes, func(w wholeWrite) bool { return w.conn == i && w.end > c.Len() })
}

// alter changes a byte near the end of a connection.
func (s *wholeScript) alter(c *wholeConn, back int, to byte) {
	s.must(s.main.Flush())
	s.altered = true
	if at := c.Len() - 1 - back*8; at >= 0 {
		c.Bytes()[at] ^= to
		s.silent = s.silent || at < multifd.HandshakeLen // as in cut
	}
}

// connect makes an additional connection: another peer's, or a duplicate.
func (s *wholeScript) connect(kind byte) {
	c := new(wholeConn)
	switch kind % 5 {
	case 0:
		c.WriteString("GET / HTTP/1.1\r\n\r\n")
	case 1:
		c.WriteString("QEVM")
	case 2:
		c.Write(multifd.Handshake{ID: kind / 5, UUID: [16]byte{1}}.Append(nil))
	case 3:
		c.Write([]byte{0x11, 0x22})
	case 4:
		c.silent, s.silent = true, true
	}
	s.extra = append(s.extra, c)
}

// candidates are the contents that a page may have at the end: of each
// connection that wrote it between the last two sync points at which it was
// written at all, the last one's; and beside these what came behind the main
// channel's last sync point, which may be too late.
func (s *wholeScript) candidates(block, page int) [][]byte {
	var regular, late [][]byte
	newest := -1
	lasts := map[int][]byte{}
	for _, w := range s.writes {
		if w.block != block || w.page != page {
			continue
		}
		if w.syncs >= s.conns[0].syncs {
			late = append(late, w.data)
			continue
		}
		if w.syncs > newest {
			newest = w.syncs
			clear(lasts)
		}
		if w.syncs == newest {
			lasts[w.conn] = w.data
		}
	}
	for _, data := range lasts {
		regular = append(regular, data)
	}
	if newest < 0 {
		regular = append(regular, make([]byte, 4096))
	}
	return append(regular, late...)
}
