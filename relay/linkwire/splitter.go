package linkwire

import (
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
)

// Unit is a part of what a QEMU sends on one connection: either bytes, or a RAM packet of
// a multifd channel. Its slices are valid until Next is called with the same Unit.
type Unit struct {
	// Bytes are passed on as they are.
	Bytes []byte
	// Header is a packet's header. Pages are its pages if it carries them uncompressed;
	// otherwise its payload follows as bytes.
	Header, Pages []byte
	PageSize      int

	memory []byte
}

// ErrQuiet is what a Source returns if nothing arrives for a while.
var ErrQuiet = errors.New("linkwire: nothing arrives")

// Source reads a QEMU connection: at least one byte, or an error. within is how long it
// may wait, 0 for ever; after that time it returns ErrQuiet.
type Source func(p []byte, within time.Duration) (int, error)

// partWait is how long a Splitter keeps a part of a packet for the rest of it. A program
// that is not QEMU can wait for an answer after that part.
const partWait = 100 * time.Millisecond

// Splitter takes a connection apart. It recognises a multifd channel by its first bytes.
// Whatever it does not recognise, it returns as bytes.
type Splitter struct {
	// MostBytes is the most bytes of a unit of bytes; MaxBytes by default.
	MostBytes int

	read     Source
	state    func(*Splitter, *Unit) error
	pageSize int
	header   []byte // what has arrived of the current header
	returned int    // bytes of header that were returned as bytes already
	rest     uint64 // bytes of the current packet that are returned as bytes
	much     bool   // a read of bytes has filled its memory
	ended    error
}

// NewSplitter returns a Splitter of what read reads.
func NewSplitter(read Source) *Splitter {
	return &Splitter{MostBytes: MaxBytes, read: read, state: (*Splitter).start, pageSize: 4096}
}

// Next reads the next unit. After everything that has arrived was returned, it returns
// the error that ended the reading, io.EOF at the end of the connection.
func (s *Splitter) Next(u *Unit) error {
	u.Bytes, u.Header, u.Pages = nil, nil, nil
	if s.ended != nil {
		return s.ended
	}
	return s.state(s, u)
}

// end returns what is kept of a packet, and then err.
func (s *Splitter) end(u *Unit, err error) error {
	s.ended = err
	if u.Bytes = s.header[s.returned:]; len(u.Bytes) > 0 {
		return nil
	}
	return err
}

// fill reads until header has n bytes. It reports false if u has something to return
// first. Only the first byte of a header may take for ever.
func (s *Splitter) fill(u *Unit, n int) (bool, error) {
	for len(s.header) < n {
		if cap(s.header) < n {
			s.header = append(make([]byte, 0, maxHeaderLen), s.header...)
		}
		within := partWait
		if len(s.header) == s.returned {
			within = 0
		}
		got, err := s.read(s.header[len(s.header):n], within)
		s.header = s.header[:len(s.header)+got]
		switch {
		case errors.Is(err, ErrQuiet):
			// A copy: the next header takes the memory while u is still in use.
			u.memory = append(u.memory[:0], s.header[s.returned:]...)
			u.Bytes = u.memory
			s.returned = len(s.header)
			return false, nil
		case err != nil:
			return false, s.end(u, err)
		}
	}
	return true, nil
}

// start looks at the first bytes of the connection.
func (s *Splitter) start(u *Unit) error {
	for {
		s.header = s.header[:min(len(s.header), multifd.HandshakeLen)]
		if cap(s.header) < multifd.HandshakeLen {
			s.header = make([]byte, 0, maxHeaderLen)
		}
		within := partWait
		if len(s.header) == 0 {
			within = 0
		}
		n, err := s.read(s.header[len(s.header):multifd.HandshakeLen], within)
		s.header = s.header[:len(s.header)+n]
		if err != nil && !errors.Is(err, ErrQuiet) {
			return s.end(u, err)
		}
		if err != nil || !multifd.BeginsChannel(s.header) {
			s.state = (*Splitter).bytes
			u.Bytes = s.header
			s.header = nil
			return nil
		}
		if len(s.header) == multifd.HandshakeLen {
			s.state = (*Splitter).packet
			u.Bytes = append(u.memory[:0], s.header...)
			s.header = s.header[:0]
			return nil
		}
	}
}

// ChannelOf returns the UUID of the machine if b, the first unit of a connection, is the
// handshake of a multifd channel.
func ChannelOf(b []byte) (uuid [16]byte, ok bool) {
	if len(b) != multifd.HandshakeLen || !multifd.BeginsChannel(b) {
		return uuid, false
	}
	return [16]byte(b[8:24]), true
}

// bytes returns all that follows as bytes.
func (s *Splitter) bytes(u *Unit) error { return s.readBytes(u, s.MostBytes) }

// fewBytes is the memory of a unit of bytes on a connection that carries little, such as
// the return path.
const fewBytes = 16 << 10

func (s *Splitter) readBytes(u *Unit, most int) error {
	size := min(most, fewBytes)
	if s.much {
		size = most
	}
	if cap(u.memory) < size {
		u.memory = make([]byte, size)
	}
	p := u.memory[:min(most, cap(u.memory))]
	n, err := s.read(p, 0)
	u.Bytes = p[:n]
	s.much = s.much || n == len(p)
	if err != nil {
		s.header, s.returned = nil, 0
		s.ended = err
		if n == 0 {
			return err
		}
	}
	return nil
}

// passRest returns the rest of a packet as bytes.
func (s *Splitter) passRest(u *Unit) error {
	if s.rest == 0 {
		s.state = (*Splitter).packet
		return s.packet(u)
	}
	err := s.readBytes(u, int(min(s.rest, uint64(s.MostBytes))))
	s.rest -= uint64(len(u.Bytes))
	return err
}

// prefixLen is the part that RAM packets and device states have in common.
const prefixLen = 12

// packet reads a packet of a channel.
func (s *Splitter) packet(u *Unit) error {
	if ok, err := s.fill(u, prefixLen); !ok {
		return err
	}
	flags := multifd.Header(s.header).Flags()
	switch {
	case !multifd.BeginsChannel(s.header):
		return s.giveUp(u)
	case flags&multifd.FlagDeviceState != 0:
		return s.deviceState(u)
	}
	if ok, err := s.fill(u, prefixLen+4); !ok {
		return err
	}
	switch pageSize, err := multifd.Header(s.header).PageSize(); {
	case err != nil:
		return s.giveUp(u)
	case pageSize != 0:
		s.pageSize = pageSize
	}
	if ok, err := s.fill(u, multifd.HeaderLen(s.pageSize)); !ok {
		return err
	}
	return s.ramPacket(u, flags)
}

// giveUp returns all that follows as bytes.
func (s *Splitter) giveUp(u *Unit) error {
	s.state = (*Splitter).bytes
	u.Bytes = s.header[s.returned:]
	s.header, s.returned = nil, 0
	if len(u.Bytes) == 0 {
		return s.bytes(u)
	}
	return nil
}

// deviceState returns a device-state packet as bytes.
func (s *Splitter) deviceState(u *Unit) error {
	if ok, err := s.fill(u, devicestate.HeaderLen); !ok {
		return err
	}
	s.passAs(u, uint64(binary.BigEndian.Uint32(s.header[devicestate.HeaderLen-4:])))
	return nil
}

// passAs returns the header as bytes, and then the rest of its packet.
func (s *Splitter) passAs(u *Unit, rest uint64) {
	u.memory = append(u.memory[:0], s.header[s.returned:]...)
	u.Bytes = u.memory
	s.header, s.returned = s.header[:0], 0
	s.rest, s.state = rest, (*Splitter).passRest
}

// ramPacket reads the pages of a RAM packet whose header is complete.
func (s *Splitter) ramPacket(u *Unit, flags multifd.Flags) error {
	be := binary.BigEndian
	normal, zero := be.Uint32(s.header[normalAt:]), be.Uint32(s.header[zeroAt:])
	capacity := uint32(guest.PacketPages(s.pageSize))
	if normal > capacity || zero > capacity-normal {
		return s.giveUp(u)
	}
	payload := uint64(be.Uint32(s.header[sizeAt:]))
	uncompressed := flags&multifd.FlagMethods == 0
	switch {
	case normal == 0:
		payload = 0 // QEMU 7.2 leaves an old size here
	case uncompressed && payload != uint64(normal)*uint64(s.pageSize):
		return s.giveUp(u)
	}
	if s.returned > 0 {
		s.passAs(u, payload)
		return nil
	}
	if cap(u.memory) < maxHeaderLen+guest.PacketBytes {
		u.memory = make([]byte, maxHeaderLen+guest.PacketBytes)
	}
	u.PageSize = s.pageSize
	n := copy(u.memory[:cap(u.memory)], s.header)
	u.Header = u.memory[:n:n]
	s.header = s.header[:0]
	if !uncompressed || normal == 0 {
		s.rest, s.state = payload, (*Splitter).passRest
		return nil
	}
	return s.readPages(u, u.memory[n:n+int(payload)])
}

// readPages reads the pages of a packet. If they do not all arrive in time, the packet
// is returned without pages, and what has arrived follows as bytes.
func (s *Splitter) readPages(u *Unit, pages []byte) error {
	for have := 0; have < len(pages); {
		n, err := s.read(pages[have:], partWait)
		if have += n; err == nil {
			continue
		}
		s.rest, s.state = uint64(len(pages)-have), (*Splitter).passRest
		if !errors.Is(err, ErrQuiet) {
			s.ended = err
		}
		u.Pages = nil
		if have > 0 {
			s.late(pages[:have])
		}
		return nil
	}
	u.Pages = pages
	return nil
}

// late returns bytes with the next calls of Next.
func (s *Splitter) late(b []byte) {
	b = append([]byte(nil), b...)
	after, ended := s.state, s.ended
	s.ended = nil
	s.state = func(s *Splitter, u *Unit) error {
		n := min(len(b), MaxBytes)
		u.Bytes, b = b[:n], b[n:]
		if len(b) == 0 {
			s.state, s.ended = after, ended
		}
		return nil
	}
}

// ReadAll reads what a Splitter returns, for tests and tools: the bytes of all units.
func (s *Splitter) ReadAll() ([]byte, error) {
	var all []byte
	var u Unit
	for {
		if err := s.Next(&u); err != nil {
			if err == io.EOF {
				err = nil
			}
			return all, err
		}
		all = append(append(append(all, u.Bytes...), u.Header...), u.Pages...)
	}
}
