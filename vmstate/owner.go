package vmstate

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// A machine whose owner is a Go program has one section of device state, which
// holds the owner's bytes: a FULL section of this name, instance 0, version 1,
// with a u32 length and the bytes.
const (
	ownerSection   = "vmferry/owner"
	ownerSectionID = 2
	ownerVersion   = 1
)

// MaxOwnerState bounds the bytes of an owner's state.
const MaxOwnerState = 1<<30 - 4096

// OwnerState makes the device state, up to the end of the stream, of a machine
// whose owner's state is state.
func OwnerState(state []byte, pageSize int) ([]byte, error) {
	if len(state) > MaxOwnerState {
		return nil, fmt.Errorf("vmstate: an owner's state of %d bytes (want %d at most)", len(state), MaxOwnerState)
	}
	be := binary.BigEndian
	b := ownerHeader()
	b = be.AppendUint32(b, uint32(len(state)))
	b = append(b, state...)
	b = append(b, sectionFooter)
	b = be.AppendUint32(b, ownerSectionID)
	text, err := json.Marshal(Description{PageSize: pageSize, Devices: []DeviceDescription{
		{Name: ownerSection, State: "owner", Version: ownerVersion},
	}})
	if err != nil {
		return nil, fmt.Errorf("vmstate: describing an owner's state: %w", err)
	}
	b = append(b, sectionEOF, sectionDescription)
	b = be.AppendUint32(b, uint32(len(text)))
	return append(b, text...), nil
}

func ownerHeader() []byte {
	be := binary.BigEndian
	b := be.AppendUint32([]byte{sectionFull}, ownerSectionID)
	b = append(b, byte(len(ownerSection)))
	b = append(b, ownerSection...)
	b = be.AppendUint32(b, 0)
	return be.AppendUint32(b, ownerVersion)
}

// ParseOwnerState returns the owner's bytes from what OwnerState made. Anything
// else, such as the devices of a QEMU machine, is an error that wraps
// ErrUnsupported or ErrMalformed.
func ParseOwnerState(devices []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(devices, ownerHeader())
	if !ok {
		return nil, fmt.Errorf("device state: %w: it is not that of a Go program's machine", ErrUnsupported)
	}
	if len(rest) < 4 || uint64(binary.BigEndian.Uint32(rest)) > uint64(len(rest)-4) {
		return nil, fmt.Errorf("device state: %w: the owner's state is longer than the section", ErrMalformed)
	}
	n := binary.BigEndian.Uint32(rest)
	state, rest := rest[4:4+n], rest[4+n:]
	footer := binary.BigEndian.AppendUint32([]byte{sectionFooter}, ownerSectionID)
	if !bytes.HasPrefix(rest, append(footer, sectionEOF, sectionDescription)) {
		return nil, fmt.Errorf("device state: %w: other sections follow the owner's", ErrMalformed)
	}
	if d, ok := FindEnd(devices); !ok || len(d.Devices) != 1 {
		return nil, fmt.Errorf("device state: %w: the description does not fit the owner's state", ErrMalformed)
	}
	return state, nil
}
