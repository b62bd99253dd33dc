package multifd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// DeviceState is a device-state packet (QEMU 10.0 and later): part of one device's
// state, sent over a multifd channel.
//
//	0 u32 magic   4 u32 version   8 u32 flags   12 u8[256] idstr
//	268 u32 instance   272 u32 size   276 data
type DeviceState struct {
	Flags    Flags
	ID       string
	Instance uint32
	Data     []byte
}

const (
	// DeviceStateHeader is the length of a device-state packet's header in bytes.
	DeviceStateHeader = 276
	// MaxDeviceState bounds the data of one device-state packet. QEMU sends 1 MiB at a
	// time.
	MaxDeviceState = 64 << 20
)

// decodeDeviceState reads the header and returns the length of the data that follows.
func decodeDeviceState(h []byte) (DeviceState, int, error) {
	d := DeviceState{Flags: Flags(binary.BigEndian.Uint32(h[8:]))}
	if d.Flags&^(FlagDeviceState|FlagSync) != 0 {
		return d, 0, malformed("flags", "%v has bits that are undefined for a device-state packet", d.Flags)
	}
	name := h[12:268]
	end := bytes.IndexByte(name, 0)
	if end <= 0 {
		return d, 0, malformed("idstr", "empty, or without a terminating zero")
	}
	d.ID = string(name[:end])
	d.Instance = binary.BigEndian.Uint32(h[268:])
	size := binary.BigEndian.Uint32(h[272:])
	if size > MaxDeviceState {
		return d, 0, malformed("size", "%d bytes of state of device %q (at most %d)", size, d.ID, MaxDeviceState)
	}
	return d, int(size), nil
}

// appendHeader appends the packet's header.
func (d *DeviceState) appendHeader(b []byte) ([]byte, error) {
	if len(d.ID) == 0 || len(d.ID) > 255 || len(d.Data) > MaxDeviceState {
		return b, fmt.Errorf("multifd: device-state packet of device %q: a name of %d bytes (want 1 to 255) with %d bytes of state (at most %d)", d.ID, len(d.ID), len(d.Data), MaxDeviceState)
	}
	be := binary.BigEndian
	b = be.AppendUint32(b, Magic)
	b = be.AppendUint32(b, Version)
	b = be.AppendUint32(b, uint32(d.Flags|FlagDeviceState))
	b = append(b, d.ID...)
	b = append(b, make([]byte, 256-len(d.ID))...)
	b = be.AppendUint32(b, d.Instance)
	return be.AppendUint32(b, uint32(len(d.Data))), nil
}

// AppendDeviceState appends a device-state packet in its wire form.
func AppendDeviceState(b []byte, d *DeviceState) ([]byte, error) {
	b, err := d.appendHeader(b)
	if err != nil {
		return b, err
	}
	return append(b, d.Data...), nil
}

// ReadDeviceStates reads device-state packets until the end of r.
func ReadDeviceStates(r io.Reader) ([]DeviceState, error) {
	var states []DeviceState
	h := make([]byte, DeviceStateHeader)
	for {
		if _, err := io.ReadFull(r, h); err == io.EOF {
			return states, nil
		} else if err != nil {
			return nil, fmt.Errorf("device-state packet %d: header: %w", len(states)+1, truncated(err))
		}
		if magic, version := binary.BigEndian.Uint32(h), binary.BigEndian.Uint32(h[4:]); magic != Magic || version != Version {
			return nil, fmt.Errorf("device-state packet %d: %w: magic %#08x version %d", len(states)+1, ErrMalformed, magic, version)
		}
		d, size, err := decodeDeviceState(h)
		if err == nil {
			d.Data, err = readGrowing(r, size, func(int) error { return nil })
		}
		if err != nil {
			return nil, fmt.Errorf("device-state packet %d: %w", len(states)+1, truncated(err))
		}
		states = append(states, d)
	}
}
