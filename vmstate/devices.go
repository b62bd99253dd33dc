package vmstate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// readDevices reads from the first piece of device state to the stream's end.
func (d *Destination) readDevices(e *Event) error {
	for {
		if err := d.keepDevices(e.Data); err != nil {
			return d.fail("device state", err)
		}
		// A source with a return path sends nothing more here and waits.
		if d.returnPath && d.complete() {
			return nil
		}
		var err error
		if e, err = d.moreDevices(); err == nil {
			continue
		}
		if errors.Is(err, errQuiet) {
			if ended, err := d.endQuiet(); ended {
				return err
			}
			e = &Event{}
			continue
		}
		if err != io.EOF {
			return d.fail("device state", streamEnd(err))
		}
		if d.complete() || d.opts.NoDescription && bytes.HasSuffix(d.devices, []byte{sectionEOF}) {
			return nil
		}
		return d.fail("device state", fmt.Errorf("%w: %d bytes of device state came, without the description that ends it (is the machine option suppress-vmdesc on?)", ErrTruncated, len(d.devices)))
	}
}

// complete says whether the description that ends the device state has come.
func (d *Destination) complete() bool {
	_, ok := FindEnd(d.devices)
	return ok
}

// keepDevices appends to the device state, if the bounds have room. What append leaves
// behind while it grows a large slice by quarters is several times the slice. By
// doubling it is one time, and the part that is not used yet takes no memory.
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

// Description is the part of the description that is of use here. Its devices
// are in the order of the sections.
type Description struct {
	PageSize int                 `json:"page_size"`
	Devices  []DeviceDescription `json:"devices"`
}

// DeviceDescription is one device's line in the description.
type DeviceDescription struct {
	Name     string `json:"name"`
	Instance uint32 `json:"instance_id"`
	State    string `json:"vmsd_name"`
	Version  int    `json:"version"`
}

// MaxDescription bounds the bytes of a description. QEMU's are of 10 to 200 KiB.
const MaxDescription = 16 << 20

// FindEnd looks for the end of a stream's device state without parsing devices:
// an EOF byte, then a description whose length is exactly the bytes that are
// left, which is JSON, and which fits the sections before it. It returns the
// description; ok is false if devices is not complete.
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

// descriptionHeader is the bytes before a description: the EOF that ends the
// sections, the description's mark, its length.
const descriptionHeader = 6

// find returns the end of the name and instance in the device's section header,
// which begins with the bytes of start; -1 if there is none.
func (d *DeviceDescription) find(sections, start []byte) int {
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
		at++ // the name can be some device's data
	}
	return -1
}

// footerLen is the bytes of a section's footer: its mark and the section's id.
const footerLen = 5

// RunState returns the run state, such as "running", that the device state's
// globalstate section says the machine had, or "" if there is none.
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
		at = i + 1 // the name can also be some device's data
		if rest := devices[i+len(mark):]; i >= 5 && devices[i-5] == sectionFull && len(rest) >= 12 {
			size := binary.BigEndian.Uint32(rest[8:])
			if text := rest[12:]; size <= 100 && int(size) <= len(text) {
				text, _, _ = bytes.Cut(text[:size], []byte{0})
				return string(text)
			}
		}
	}
}
