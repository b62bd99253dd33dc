package devicestate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

var (
	// ErrMalformed is wrapped when bytes are no device-state packet.
	ErrMalformed = errors.New("devicestate: malformed packet")
	// ErrTruncated is wrapped when the bytes end within a packet.
	ErrTruncated = errors.New("devicestate: truncated packet")
)

// FieldError names the field of a packet that is malformed. It wraps ErrMalformed.
type FieldError struct {
	Field  string
	Reason string
}

func (e *FieldError) Error() string {
	return fmt.Sprintf("%s: %v: %s", e.Field, ErrMalformed, e.Reason)
}
func (e *FieldError) Unwrap() error { return ErrMalformed }

// Packet is a device-state packet (QEMU 10.0 and later): part of one device's state.
//
//	0 u32 magic   4 u32 version   8 u32 flags   12 u8[256] idstr
//	268 u32 instance   272 u32 size   276 data
type Packet struct {
	Flags    uint32
	ID       string
	Instance uint32
	Data     []byte
}

const (
	// HeaderLen is the length of a packet's header in bytes.
	HeaderLen = 276
	// MaxData bounds the data of one packet. QEMU sends 1 MiB at a time.
	MaxData = 64 << 20
	// Flag is the flag of every device-state packet.
	Flag = 0x40

	flagSync = 0x01
	magic    = 0x11223344 // as of every packet of a multifd channel
	version  = 1
	maxID    = 255
)

// ParseHeader reads a header of HeaderLen bytes whose magic and version have been
// checked. It returns the length of the data that follows. Its errors are FieldErrors.
func ParseHeader(h []byte) (p Packet, size int, err error) {
	p.Flags = binary.BigEndian.Uint32(h[8:])
	if p.Flags&^uint32(Flag|flagSync) != 0 {
		return p, 0, &FieldError{"flags", fmt.Sprintf("%#x has bits that are undefined for a device-state packet", p.Flags)}
	}
	name := h[12:268]
	end := bytes.IndexByte(name, 0)
	if end <= 0 {
		return p, 0, &FieldError{"idstr", "empty, or without a terminating zero"}
	}
	p.ID = string(name[:end])
	p.Instance = binary.BigEndian.Uint32(h[268:])
	n := binary.BigEndian.Uint32(h[272:])
	if n > MaxData {
		return p, 0, &FieldError{"size", fmt.Sprintf("%d bytes of state of device %q (at most %d)", n, p.ID, MaxData)}
	}
	return p, int(n), nil
}

// AppendHeader appends the packet's header in its wire form. The data follows it on the
// wire.
func (p *Packet) AppendHeader(b []byte) ([]byte, error) {
	if len(p.ID) == 0 || len(p.ID) > maxID || len(p.Data) > MaxData {
		return b, fmt.Errorf("devicestate: packet of device %q: a name of %d bytes (want 1 to %d) with %d bytes of state (at most %d)", p.ID, len(p.ID), maxID, len(p.Data), MaxData)
	}
	be := binary.BigEndian
	b = be.AppendUint32(b, magic)
	b = be.AppendUint32(b, version)
	b = be.AppendUint32(b, p.Flags|Flag)
	b = append(b, p.ID...)
	b = append(b, make([]byte, maxID+1-len(p.ID))...)
	b = be.AppendUint32(b, p.Instance)
	return be.AppendUint32(b, uint32(len(p.Data))), nil
}

// Append appends the packet in its wire form.
func (p *Packet) Append(b []byte) ([]byte, error) {
	b, err := p.AppendHeader(b)
	if err != nil {
		return b, err
	}
	return append(b, p.Data...), nil
}

// ReadAll reads packets to the end of r.
func ReadAll(r io.Reader) ([]Packet, error) {
	var packets []Packet
	h := make([]byte, HeaderLen)
	for {
		number := len(packets) + 1
		if _, err := io.ReadFull(r, h); err == io.EOF {
			return packets, nil
		} else if err != nil {
			return nil, fmt.Errorf("device-state packet %d: header: %w", number, truncated(err))
		}
		if m, v := binary.BigEndian.Uint32(h), binary.BigEndian.Uint32(h[4:]); m != magic || v != version {
			return nil, fmt.Errorf("device-state packet %d: %w: magic %#08x version %d", number, ErrMalformed, m, v)
		}
		p, size, err := ParseHeader(h)
		if err == nil {
			p.Data, err = ReadData(r, size, func(int) error { return nil })
		}
		if err != nil {
			return nil, fmt.Errorf("device-state packet %d: %w", number, truncated(err))
		}
		packets = append(packets, p)
	}
}

const growingStep = 64 << 10

// ReadData reads size bytes of data. It allocates as bytes arrive: each time at most as
// much as it has read so far, or 64 KiB. It calls take before it allocates.
func ReadData(r io.Reader, size int, take func(bytes int) error) ([]byte, error) {
	var data []byte
	for len(data) < size {
		at := len(data)
		n := min(max(growingStep, at), size-at)
		if err := take(n); err != nil {
			return nil, err
		}
		larger := make([]byte, at+n)
		copy(larger, data)
		data = larger
		if _, err := io.ReadFull(r, data[at:]); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// truncated makes the end of the bytes within a packet an ErrTruncated.
func truncated(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return ErrTruncated
	}
	return err
}
