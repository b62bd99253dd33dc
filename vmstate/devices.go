package vmstate

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// readDevices reads from the first device section to the stream's end.
func (r *Reader) readDevices() error {
	complete := func() bool {
		_, ok := FindEnd(r.devices)
		return ok
	}
	for {
		chunk := r.in.buf[r.in.at:r.in.end]
		r.devices = append(r.devices, chunk...)
		r.in.offset += uint64(len(chunk))
		r.in.at, r.in.end = 0, 0
		if uint64(len(r.devices)) > r.opts.MaxDevices {
			return r.fail("device state", fmt.Errorf("%w: more than %d bytes", ErrMalformed, r.opts.MaxDevices))
		}
		// A source with a return path goes quiet here and waits.
		if r.returnPath && complete() {
			return nil
		}
		err := r.in.more()
		if err == nil {
			continue
		}
		if err != io.EOF {
			return r.fail("device state", streamEnd(err))
		}
		if complete() || r.opts.NoDescription && bytes.HasSuffix(r.devices, []byte{sectionEOF}) {
			return nil
		}
		return r.fail("device state", fmt.Errorf("%w: %d bytes of device state came, without the description that ends it (is the machine option suppress-vmdesc on?)", ErrTruncated, len(r.devices)))
	}
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

// FindEnd looks for the end of a stream's device state without parsing devices:
// an EOF byte, then a description whose length is exactly the bytes that are
// left and which is JSON. It returns the description; ok is false if devices
// is not complete.
func FindEnd(devices []byte) (d Description, ok bool) {
	if len(devices) == 0 || devices[len(devices)-1] != '}' {
		return d, false
	}
	rest := devices
	mark := []byte{sectionEOF, sectionDescription}
	for {
		i := bytes.Index(rest, mark)
		if i < 0 || len(rest)-i < 7 {
			return d, false
		}
		text := rest[i+6:]
		if int64(binary.BigEndian.Uint32(rest[i+2:])) == int64(len(text)) && text[0] == '{' && json.Unmarshal(text, &d) == nil {
			return d, true
		}
		rest = rest[i+1:]
	}
}

// RunState returns the run state, such as "running", that the device state's
// globalstate section says the machine had, or "" if there is none.
func RunState(devices []byte) string {
	const name = "globalstate"
	// FULL, u32 id, u8 len, name, u32 instance, u32 version, u32 size, text
	mark := append([]byte{byte(len(name))}, name...)
	i := bytes.Index(devices, mark)
	if i < 5 || devices[i-5] != sectionFull {
		return ""
	}
	rest := devices[i+len(mark):]
	if len(rest) < 12 {
		return ""
	}
	size := binary.BigEndian.Uint32(rest[8:])
	text := rest[12:]
	if size > 100 || int(size) > len(text) {
		return ""
	}
	if end := bytes.IndexByte(text[:size], 0); end >= 0 {
		return string(text[:end])
	}
	return string(text[:size])
}
