package vmstate

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// A machine of a Go program has one section of device state, which holds the state of
// the program: a FULL section of this name, instance 0, version 1, with a u32 length
// and the bytes. The section is vmferry's own.
const (
	ownerSection   = "vmferry/owner"
	ownerSectionID = 2
	ownerVersion   = 1
)

// MaxOwnerState bounds the bytes of the owner's state.
const MaxOwnerState = 1<<30 - 4096

// OwnerState returns the device state, with the description that ends it, of a machine
// of a Go program. state is the program's own state, of at most MaxOwnerState bytes;
// pageSize is in bytes.
func OwnerState(state []byte, pageSize int) ([]byte, error) {
	if len(state) > MaxOwnerState {
		return nil, fmt.Errorf("vmstate: owner's state of %d bytes (want at most %d)", len(state), MaxOwnerState)
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

// ParseOwnerState returns the state that was passed to OwnerState. For other device
// state, such as that of a QEMU, it returns an error that wraps ErrUnsupported or
// ErrMalformed.
func ParseOwnerState(devices []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(devices, ownerHeader())
	if !ok {
		return nil, fmt.Errorf("device state: %w: no section %q, which the machine of a Go program has", ErrUnsupported, ownerSection)
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
		return nil, fmt.Errorf("device state: %w: the description does not match the owner's state", ErrMalformed)
	}
	return state, nil
}
