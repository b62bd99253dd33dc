package vmstate

import (
	"bytes"
	"encoding/json"
	"io"
)

// parseDescription reads a description that has to fit the sections before it:
// device data can hold a description too, whole and at the end of what came so
// far. All devices have to be there, in order, and the last to be complete. A
// description without devices, which some writers make, says less.
//
// It takes one device at a time and ends at the first that is not in the
// sections, so that a description makes no more devices than have come.
func parseDescription(text, sections []byte) (d Description, ok bool) {
	p := descriptionParser{dec: json.NewDecoder(bytes.NewReader(text)), rest: sections}
	if len(sections) > 0 {
		n := len(sections) - footerLen
		if n < 0 || sections[n] != sectionFooter {
			return Description{}, false
		}
		p.last = append([]byte{sectionFull}, sections[n+1:]...)
	}
	if !p.parse() {
		return Description{}, false
	}
	return p.d, true
}

type descriptionParser struct {
	dec  *json.Decoder
	d    Description
	rest []byte // of the sections, behind the devices that were found
	last []byte // how the last section begins
}

func (p *descriptionParser) parse() bool {
	if !p.delim('{') {
		return false
	}
	seen := false
	for p.dec.More() {
		key, err := p.dec.Token()
		if err != nil {
			return false
		}
		switch key {
		case "page_size":
			err = p.dec.Decode(&p.d.PageSize)
		case "devices":
			if seen || !p.devices() {
				return false
			}
			seen = true
		default:
			err = p.dec.Decode(new(skipped))
		}
		if err != nil {
			return false
		}
	}
	if !p.delim('}') {
		return false
	}
	if _, err := p.dec.Token(); err != io.EOF {
		return false
	}
	switch n := len(p.d.Devices); {
	case n > 0:
		return p.find(&p.d.Devices[n-1], p.last)
	case p.last == nil:
		return true
	}
	return bytes.Contains(p.rest, p.last)
}

// devices reads the list. The last device waits for its turn: it is looked for in
// another way.
func (p *descriptionParser) devices() bool {
	list, err := p.dec.Token()
	if err != nil || list == nil { // null
		return err == nil
	}
	if list != json.Delim('[') {
		return false
	}
	for p.dec.More() {
		if n := len(p.d.Devices); n > 0 && !p.find(&p.d.Devices[n-1], []byte{sectionFull}) {
			return false
		}
		var device DeviceDescription
		if p.dec.Decode(&device) != nil {
			return false
		}
		p.d.Devices = append(p.d.Devices, device)
	}
	return p.delim(']')
}

// find steps over a device's section, which begins with the bytes of start.
func (p *descriptionParser) find(device *DeviceDescription, start []byte) bool {
	if len(start) == 0 {
		return false
	}
	end := device.find(p.rest, start)
	if end < 0 {
		return false
	}
	p.rest = p.rest[end:]
	return true
}

func (p *descriptionParser) delim(want json.Delim) bool {
	got, err := p.dec.Token()
	return err == nil && got == want
}

// skipped is a value that nothing is kept of.
type skipped struct{}

func (*skipped) UnmarshalJSON([]byte) error { return nil }
