package multifd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"

	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/guest"
)

// Sender writes one channel. It is for use by one goroutine.
type Sender struct {
	channel  int
	w        *vectorWriter
	method   Method
	state    SendState
	pageSize int
	num      *atomic.Uint64
	header   []byte
	packet   Packet
	out      Outgoing
	bytes    uint64
	pages    SentPages

	overlap OverlappingSend // nil if the method has none
	held    *guest.Batch    // begun and not written
}

// NewSender sets up the method for the channel. num counts the packets of all channels
// of the migration. w may be nil until Attach. Close frees what NewSender allocated.
func NewSender(w io.Writer, method Method, num *atomic.Uint64, cfg ChannelConfig) (*Sender, error) {
	if cfg.PageSize < guest.MinPageSize || cfg.PageSize > guest.MaxPageSize {
		return nil, fmt.Errorf("multifd channel %d: page size %d (want %d to %d)", cfg.Channel, cfg.PageSize, guest.MinPageSize, guest.MaxPageSize)
	}
	if err := CheckLevel(method, cfg.Level); err != nil {
		return nil, fmt.Errorf("multifd channel %d: setting up to send %s: %w", cfg.Channel, method.Name(), err)
	}
	state, err := method.SetupSend(cfg)
	if err != nil {
		return nil, fmt.Errorf("multifd channel %d: setting up to send %s: %w", cfg.Channel, method.Name(), err)
	}
	s := &Sender{
		channel: cfg.Channel, w: newVectorWriter(w), method: method, state: state,
		pageSize: cfg.PageSize, num: num, header: make([]byte, HeaderLen(cfg.PageSize)),
	}
	if o, ok := state.(OverlappingSend); ok && o.Overlaps() {
		s.overlap = o
	}
	return s, nil
}

// Attach sets the connection to write to.
func (s *Sender) Attach(w io.Writer) { s.w = newVectorWriter(w) }

// Holds reports whether b, a batch that was passed to Send, is still in use. The next
// Send or Sync ends its use.
func (s *Sender) Holds(b *guest.Batch) bool { return s.held == b }

// Close frees what the method holds. It does not close the connection.
func (s *Sender) Close() { s.state.Cleanup() }

// Bytes returns the bytes written to the channel.
func (s *Sender) Bytes() uint64 { return s.bytes }

// SentPages counts pages by how they were sent.
type SentPages struct {
	// Zero pages are sent as offsets only, Raw pages as their own bytes.
	Zero, Raw, Compressed uint64
}

// Pages returns the pages sent so far.
func (s *Sender) Pages() SentPages { return s.pages }

// TakesDeflated reports whether Send takes deflated batches.
func (s *Sender) TakesDeflated() bool { return s.state.TakesDeflated() }

// Handshake writes the handshake, which opens the channel.
func (s *Sender) Handshake(uuid [16]byte) error {
	n, err := s.w.w.Write(Handshake{UUID: uuid, ID: uint8(s.channel)}.Append(nil))
	s.bytes += uint64(n)
	return s.fail("handshake", err)
}

// Send writes the batch as one packet. The packet lists zero pages too, which QEMU
// understands from 9.0 on.
func (s *Sender) Send(b *guest.Batch) error {
	if len(b.Normal)+len(b.Zero) == 0 {
		return nil
	}
	if len(b.Normal)+len(b.Zero) > guest.PacketPages(s.pageSize) || len(b.Data) != len(b.Normal) {
		return s.fail("batch", fmt.Errorf("%d normal and %d zero pages with the data of %d pages (want at most %d pages, and data for each normal one)", len(b.Normal), len(b.Zero), len(b.Data), guest.PacketPages(s.pageSize)))
	}
	if b.Form == guest.Deflated && !s.state.TakesDeflated() {
		return s.fail("batch", fmt.Errorf("method %s does not take deflated pages", s.method.Name()))
	}
	if s.overlap == nil || b.Form != guest.Raw || len(b.Normal) == 0 {
		return s.send(b)
	}
	if err := s.overlap.Begin(b); err != nil {
		return s.fail("beginning a packet", err)
	}
	before := s.held
	s.held = b
	if before == nil {
		return nil
	}
	return s.sendBegun(before)
}

// sendBegun writes the packet of a batch that was begun.
func (s *Sender) sendBegun(b *guest.Batch) error {
	err := s.send(b)
	s.overlap.Written()
	return err
}

// flush writes the packet of the batch that is still held.
func (s *Sender) flush() error {
	b := s.held
	s.held = nil
	if b == nil {
		return nil
	}
	return s.sendBegun(b)
}

func (s *Sender) send(b *guest.Batch) error {
	s.out.Batch, s.out.PayloadLen, s.out.Compressed = b, 0, 0
	s.out.Payload = append(s.out.Payload[:0], s.header)
	if len(b.Normal) > 0 {
		if err := s.state.Prepare(&s.out); err != nil {
			return s.fail("preparing a packet", err)
		}
	}
	s.packet = Packet{
		Flags: s.method.Flag(), Num: s.num.Add(1), Block: b.Block,
		Normal: b.Normal, Zero: b.Zero, PayloadLen: uint32(s.out.PayloadLen),
	}
	s.packet.encode(s.header, s.pageSize)
	s.pages.Zero += uint64(len(b.Zero))
	s.pages.Compressed += uint64(s.out.Compressed)
	s.pages.Raw += uint64(len(b.Normal) - s.out.Compressed)
	return s.write()
}

// Sync writes a SYNC packet.
func (s *Sender) Sync() error {
	if err := s.flush(); err != nil {
		return err
	}
	s.packet = Packet{Flags: FlagSync, Num: s.num.Add(1)}
	s.packet.encode(s.header, s.pageSize)
	s.out.Payload = append(s.out.Payload[:0], s.header)
	return s.write()
}

// SendDeviceState writes a device-state packet.
func (s *Sender) SendDeviceState(d *devicestate.Packet) error {
	header, err := d.AppendHeader(nil)
	if err != nil {
		return s.fail("device state", err)
	}
	s.out.Payload = append(s.out.Payload[:0], header, d.Data)
	return s.write()
}

// write sends the vectors: with one writev if the connection is a socket.
func (s *Sender) write() error {
	whole := s.out.Payload // write may consume the slice
	n, err := s.w.write(&s.out.Payload)
	s.bytes += uint64(n)
	clear(whole)
	s.out.Payload = whole[:0]
	return s.fail("writing a packet", err)
}

func (s *Sender) fail(doing string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("multifd channel %d: %s: %w", s.channel, doing, err)
	}
	return fmt.Errorf("multifd channel %d: %s (%d bytes sent): %w", s.channel, doing, s.bytes, err)
}
