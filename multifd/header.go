package multifd

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/guest"
)

// Header is the header of a packet as it is on the wire: of a RAM packet, except in
// Check, Flags and DeviceState, which look at what comes first. It is for a relay between
// two QEMUs, which does not know the machine's RAM blocks: SetPayload changes what depends
// on the method, and all other bytes stay as they came.
type Header []byte

// Check returns an error unless the header begins as every packet does. It looks at the
// first 8 bytes.
func (h Header) Check() error {
	if magic := binary.BigEndian.Uint32(h); magic != Magic {
		return malformed("magic", "%#08x (want %#08x)", magic, uint32(Magic))
	}
	if v := binary.BigEndian.Uint32(h[4:]); v != Version {
		return malformed("version", "%d (want %d)", v, Version)
	}
	return nil
}

// Flags returns the packet's flags.
func (h Header) Flags() Flags { return Flags(binary.BigEndian.Uint32(h[8:])) }

// PageSize returns the target page size in bytes that pages_alloc implies, or 0 if
// pages_alloc is 0, as in the SYNC packets of QEMU 11.1.
func (h Header) PageSize() (int, error) {
	alloc := binary.BigEndian.Uint32(h[12:])
	if alloc == 0 {
		return 0, nil
	}
	least, most := uint32(guest.PacketPages(guest.MaxPageSize)), uint32(guest.PacketPages(guest.MinPageSize))
	if alloc < least || alloc > most || alloc&(alloc-1) != 0 {
		return 0, malformed("pages_alloc", "%d (want a power of two from %d to %d)", alloc, least, most)
	}
	return guest.PacketBytes / int(alloc), nil
}

// Decode reads a header of HeaderLen bytes into p, except the RAM block. It compares no
// offset with the RAM block's length, and accepts flags that are not defined. It reuses
// p's slices.
func (h Header) Decode(p *Packet, pageSize int) error {
	be := binary.BigEndian
	capacity := uint32(guest.PacketPages(pageSize))
	alloc, normal, zero := be.Uint32(h[12:]), be.Uint32(h[16:]), be.Uint32(h[32:])
	p.Flags, p.Num, p.Block, p.PayloadLen = h.Flags(), be.Uint64(h[24:]), nil, 0
	p.Normal, p.Zero = p.Normal[:0], p.Zero[:0]
	switch {
	case alloc > capacity:
		return malformed("pages_alloc", "%d, but a packet holds %d pages of %d bytes", alloc, capacity, pageSize)
	case normal > capacity:
		return malformed("normal_pages", "%d, but a packet holds %d pages of %d bytes", normal, capacity, pageSize)
	case zero > capacity-normal:
		return malformed("zero_pages", "%d with %d normal pages, but a packet holds %d pages", zero, normal, capacity)
	}
	for i := range normal {
		p.Normal = append(p.Normal, be.Uint64(h[offsetsAt+8*i:]))
	}
	for i := range zero {
		p.Zero = append(p.Zero, be.Uint64(h[offsetsAt+8*(normal+i):]))
	}
	if normal > 0 { // next_packet_size can be stale in other packets (QEMU 7.2)
		p.PayloadLen = be.Uint32(h[20:])
	}
	return nil
}

// BlockName returns the name of the RAM block that the packet's pages are in.
func (h Header) BlockName() ([]byte, error) {
	name := h[ramBlockAt : ramBlockAt+nameLen]
	end := bytes.IndexByte(name, 0)
	if end < 0 {
		return nil, malformed("ramblock", "the name has no terminating zero")
	}
	return name[:end], nil
}

// DeviceState reads the header of a device-state packet, of devicestate.HeaderLen bytes.
// It returns the packet without its data, and the length of the data.
func (h Header) DeviceState() (devicestate.Packet, int, error) {
	p, size, err := devicestate.ParseHeader(h)
	var bad *devicestate.FieldError
	if errors.As(err, &bad) {
		err = malformed(bad.Field, "%s", bad.Reason)
	}
	return p, size, err
}

// SetPayload sets the method's bits among the flags, and the length of the payload in
// bytes.
func (h Header) SetPayload(method Flags, length uint32) {
	binary.BigEndian.PutUint32(h[8:], uint32(h.Flags()&^FlagMethods|method))
	binary.BigEndian.PutUint32(h[20:], length)
}

// InPacket returns a ChannelError about a packet of a channel, for an error of a
// ReceiveState or of a Header. It returns nil if err is nil.
func InPacket(channel int, packet uint64, err error) error {
	if err == nil {
		return nil
	}
	ce := &ChannelError{Channel: channel, Packet: packet, Field: "payload", Err: err}
	var fe *fieldError
	if errors.As(err, &fe) {
		ce.Field, ce.Err = fe.field, fe.err
	}
	return ce
}
