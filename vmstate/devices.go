package vmstate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// readDevices reads the device state, of which e is the first piece, to the stream's
// end.
func (d *Destination) readDevices(e *Event) error {
	for {
		if err := d.keepDevices(e.Data); err != nil {
			return d.fail("device state", err)
		}
		// A source with a return path sends nothing more and waits for SHUT.
		if d.returnPath && d.hasDescription() {
			return nil
		}
		var err error
		if e, err = d.nextDevices(); err == nil {
			continue
		}
		if errors.Is(err, errQuiet) {
			if ended, err := d.endAfterQuiet(); ended {
				return err
			}
			e = &Event{}
			continue
		}
		if err != io.EOF {
			return d.fail("device state", streamEnd(err))
		}
		if d.hasDescription() || d.opts.NoDescription && bytes.HasSuffix(d.devices, []byte{sectionEOF}) {
			return nil
		}
		return d.fail("device state", fmt.Errorf("%w: %d bytes of device state without a final VM description (if the source has the machine option suppress-vmdesc, turn it off)", ErrTruncated, len(d.devices)))
	}
}

// hasDescription reports whether the device state ends with a description.
func (d *Destination) hasDescription() bool {
	_, ok := FindEnd(d.devices)
	return ok
}

// keepDevices appends a chunk to the device state within the bounds. It doubles the
// slice: append grows a large slice by a quarter, and so leaves several times its size
// as garbage. The unused part of the slice takes no memory.
func (d *Destination) keepDevices(chunk []byte) error {
	if uint64(len(d.devices)+len(chunk)) > d.opts.MaxDevices {
		return fmt.Errorf("%w: more than %d bytes", ErrMalformed, d.opts.MaxDevices)
	}
	if d.opts.Budget != nil {
		if err := d.opts.Budget(len(chunk)); err != nil {
			return err
		}
	}
	if need := len(d.devices) + len(chunk); need > cap(d.devices) {
		grown := make([]byte, len(d.devices), max(2*cap(d.devices), need))
		copy(grown, d.devices)
		d.devices = grown
	}
	d.devices = append(d.devices, chunk...)
	return nil
}

// Description is the used part of a stream's VM description, the JSON text after the
// device state. Its devices are in the order of the sections.
type Description struct {
	PageSize int                 `json:"page_size"`
	Devices  []DeviceDescription `json:"devices"`
}

// DeviceDescription is a device's entry in the description.
type DeviceDescription struct {
	Name     string `json:"name"`
	Instance uint32 `json:"instance_id"`
	State    string `json:"vmsd_name"`
	Version  int    `json:"version"`
}

// MaxDescription bounds the bytes of a description. QEMU's have 10 to 200 KiB.
const MaxDescription = 16 << 20

// FindEnd reports whether devices is complete device state, without parsing the
// devices. Complete device state ends with an EOF byte and a description: the
// description's length is the number of remaining bytes, its text is JSON, and its
// devices match the sections before it. FindEnd returns the description.
func FindEnd(devices []byte) (_ Description, ok bool) {
	if len(devices) == 0 || devices[len(devices)-1] != '}' {
		return Description{}, false
	}
	mark := []byte{sectionEOF, sectionDescription}
	for at := max(0, len(devices)-MaxDescription-descriptionHeader); ; at++ {
		i := bytes.Index(devices[at:], mark)
		if i < 0 || len(devices)-at-i <= descriptionHeader {
			return Description{}, false
		}
		at += i
		text := devices[at+descriptionHeader:]
		if int64(binary.BigEndian.Uint32(devices[at+2:])) != int64(len(text)) || text[0] != '{' {
			continue
		}
		if d, ok := parseDescription(text, devices[:at]); ok {
			return d, true
		}
	}
}

// descriptionHeader is the number of bytes before a description's text: the EOF byte
// that ends the sections, the type byte, the u32 length.
const descriptionHeader = 6

// findSection finds the device's section header, which begins with the bytes of start.
// It returns the offset after the name and instance, -1 if there is none.
func (d *DeviceDescription) findSection(sections, start []byte) int {
	if len(d.Name) > maxNameLen {
		return -1
	}
	name := append([]byte{byte(len(d.Name))}, d.Name...)
	name = binary.BigEndian.AppendUint32(name, d.Instance)
	const before = 5 // a type and the section's id
	for at := before; at <= len(sections); {
		i := bytes.Index(sections[at:], name)
		if i < 0 {
			return -1
		}
		at += i
		if bytes.HasPrefix(sections[at-before:], start) {
			return at + len(name)
		}
		at++ // the name can be part of device data
	}
	return -1
}

// footerLen is the number of bytes of a section footer: type byte and section id.
const footerLen = 5

// RunState returns the machine's run state, such as "running", from the globalstate
// section of the device state, "" if there is none.
func RunState(devices []byte) string {
	const name = "globalstate"
	// FULL, u32 id, u8 len, name, u32 instance, u32 version, u32 size, text
	mark := append([]byte{byte(len(name))}, name...)
	for at := 0; ; {
		i := bytes.Index(devices[at:], mark)
		if i < 0 {
			return ""
		}
		i += at
		at = i + 1 // the name can also be part of device data
		if rest := devices[i+len(mark):]; i >= 5 && devices[i-5] == sectionFull && len(rest) >= 12 {
			size := binary.BigEndian.Uint32(rest[8:])
			if text := rest[12:]; size <= 100 && int(size) <= len(text) {
				text, _, _ = bytes.Cut(text[:size], []byte{0})
				return string(text)
			}
		}
	}
}
