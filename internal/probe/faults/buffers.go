package faults

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
)

// Direction is the direction of packets.
type Direction string

const (
	// Send compresses pages into the buffer of a channel.
	Send Direction = "send"
	// Receive copies a payload into the buffer of a channel, as a read from a socket
	// does, and inflates it from there to pages that are present.
	Receive Direction = "receive"
)

// Buffers is the way in which a channel gets its buffer.
type Buffers string

const (
	// Prefaulted maps and populates the buffer when the channel is set up, as package
	// multifd does.
	Prefaulted Buffers = "populate"
	// FirstTouch maps the buffer when the channel is set up, and does not populate it.
	FirstTouch Buffers = "first touch"
	// NewEachPacket maps the buffer before each packet and unmaps it after, as malloc
	// and free do with a large block.
	NewEachPacket Buffers = "new each packet"
)

// BufferCell is a combination of a direction and a kind of buffer.
type BufferCell struct {
	Direction Direction `json:"direction"`
	Buffers   Buffers   `json:"buffers"`
}

// BufferCells returns all buffer cells in the order of the report.
func BufferCells() []BufferCell {
	var cells []BufferCell
	for _, d := range []Direction{Send, Receive} {
		for _, b := range []Buffers{Prefaulted, FirstTouch, NewEachPacket} {
			cells = append(cells, BufferCell{d, b})
		}
	}
	return cells
}

// BufferFigures are the measurements of one channel. Its JSON keys are a contract with users
// of the command.
type BufferFigures struct {
	// FirstFaults are page faults per 1,000 pages of the first packet. LaterFaults
	// are those of the packets after it.
	FirstFaults float64 `json:"first_faults"`
	LaterFaults float64 `json:"later_faults"`
	// SetupUS is the time for mapping and populating a buffer before the first
	// packet, FirstUS the time for the first packet, and LaterUS the mean time for a
	// later packet.
	SetupUS float64 `json:"setup_us"`
	FirstUS float64 `json:"first_us"`
	LaterUS float64 `json:"later_us"`
}

const (
	packets     = 64 // of one measurement: 32 MiB of guest memory
	packetPages = guest.PacketBytes / pageSize
	// bufferBytes is enough for a packet of pages that do not shrink and their lengths.
	bufferBytes = guest.PacketBytes + 64<<10
)

// channel is the codec of a channel, with pages that are present.
type channel struct {
	pages *pages
	enc   *deflate.Encoder
	dec   *deflate.Decoder
	out   []byte // a packet of pages
}

func newChannel(p *pages) *channel {
	c := &channel{pages: p, enc: deflate.NewEncoder(deflate.Fast), dec: deflate.NewDecoder(), out: make([]byte, guest.PacketBytes)}
	for i := range c.out {
		c.out[i] = 1
	}
	return c
}

// measureBuffers measures the cell once. The caller must have locked its thread.
func (c *channel) measureBuffers(cell BufferCell) (f BufferFigures, err error) {
	by := newBystander()
	defer by.stop()
	start := time.Now()
	var buffer []byte
	if cell.Buffers != NewEachPacket {
		if buffer, err = mapBuffer(cell.Buffers == Prefaulted); err != nil {
			return f, err
		}
		defer func() { err = errors.Join(err, unix.Munmap(buffer)) }()
	}
	f.SetupUS = us(time.Since(start))
	for n := range packets {
		var took float64
		var count int64
		err := countFaults(&count, func() error {
			start := time.Now()
			err := c.one(cell, buffer, n)
			took = us(time.Since(start))
			return err
		})
		if err != nil {
			return f, err
		}
		if n == 0 {
			f.FirstFaults, f.FirstUS = perThousand(count, packetPages), took
			continue
		}
		f.LaterFaults += perThousand(count, packetPages) / (packets - 1)
		f.LaterUS += took / (packets - 1)
	}
	return f, nil
}

// one sends or receives packet n.
func (c *channel) one(cell BufferCell, buffer []byte, n int) (err error) {
	if cell.Buffers == NewEachPacket {
		if buffer, err = mapBuffer(false); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unix.Munmap(buffer)) }()
	}
	if cell.Direction == Send {
		return c.send(buffer, n)
	}
	return c.receive(buffer, n)
}

// send compresses packet n into the buffer. Each page has its own part of the buffer.
func (c *channel) send(buffer []byte, n int) error {
	for i := range packetPages {
		page := n*packetPages + i
		at := buffer[i*pageSize : (i+1)*pageSize-1]
		size := c.enc.Deflate(at, c.pages.page(page))
		if want := len(c.pages.carried(page)); size != want && want != pageSize {
			return fmt.Errorf("faults: page %d was compressed to %d bytes, want %d as before", page, size, want)
		}
	}
	return nil
}

// receive copies the lengths and the payload of packet n into the buffer and inflates the
// pages from there.
func (c *channel) receive(buffer []byte, n int) error {
	at := 4 * packetPages
	for i := range packetPages {
		data := c.pages.carried(n*packetPages + i)
		binary.BigEndian.PutUint32(buffer[4*i:], uint32(len(data)))
		at += copy(buffer[at:], data)
	}
	at = 4 * packetPages
	for i := range packetPages {
		size := int(binary.BigEndian.Uint32(buffer[4*i:]))
		if err := inflate(c.dec, c.out[i*pageSize:][:pageSize], buffer[at:at+size]); err != nil {
			return fmt.Errorf("faults: page %d of packet %d: %w", i, n, err)
		}
		at += size
	}
	if last := n*packetPages + packetPages - 1; !bytes.Equal(c.out[len(c.out)-pageSize:], c.pages.page(last)) {
		return fmt.Errorf("faults: pages of packet %d differ after inflating", n)
	}
	return nil
}

// mapBuffer maps a buffer, as malloc does for a large block.
func mapBuffer(populate bool) ([]byte, error) {
	flags := unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	if populate {
		flags |= unix.MAP_POPULATE
	}
	mem, err := unix.Mmap(-1, 0, bufferBytes, unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		return nil, fmt.Errorf("faults: mapping a buffer of %d KiB: %w", bufferBytes>>10, err)
	}
	return mem, nil
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
