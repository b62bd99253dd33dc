package multifd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// DeviceState is a device-state packet (QEMU 10.0 and later): a piece of one
// device's state that the source chose to send over a multifd channel.
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
	// DeviceStateHeader is the bytes of a device-state packet before its data.
	DeviceStateHeader = 276
	// MaxDeviceState bounds the data of one device-state packet. QEMU sends
	// pieces of 1 MiB.
	MaxDeviceState = 64 << 20
)

// decodeDeviceState reads the header and returns the bytes of data to come.
func decodeDeviceState(h []byte) (DeviceState, int, error) {
	d := DeviceState{Flags: Flags(binary.BigEndian.Uint32(h[8:]))}
	if d.Flags&^(FlagDeviceState|FlagSync) != 0 {
		return d, 0, malformed("flags", "%v has bits that mean nothing to a device-state packet", d.Flags)
	}
	name := h[12:268]
	end := bytes.IndexByte(name, 0)
	if end <= 0 {
		return d, 0, malformed("idstr", "empty, or without an end")
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
		return b, fmt.Errorf("multifd: device %q with %d bytes of state does not fit a device-state packet", d.ID, len(d.Data))
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

// AppendDeviceState appends a device-state packet as it goes over the wire.
func AppendDeviceState(b []byte, d *DeviceState) ([]byte, error) {
	b, err := d.appendHeader(b)
	if err != nil {
		return b, err
	}
	return append(b, d.Data...), nil
}

// ReadDeviceStates reads device-state packets to the end of r.
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
