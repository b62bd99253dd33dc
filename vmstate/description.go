package vmstate

import (
	"bytes"
	"encoding/json"
	"io"
)

// parseDescription parses a description and compares it with the sections before it,
// because device data can itself contain a whole description at the end of the bytes
// received so far. All devices must be among the sections, in order, and the last
// section must be complete. Some writers send a description without devices, which
// proves less.
//
// It decodes one device at a time and stops at the first that is not in the sections,
// so that a description cannot allocate more devices than were received.
func parseDescription(text, sections []byte) (d Description, ok bool) {
	p := descriptionParser{dec: json.NewDecoder(bytes.NewReader(text)), unmatched: sections}
	if len(sections) > 0 {
		n := len(sections) - footerLen
		if n < 0 || sections[n] != sectionFooter {
			return Description{}, false
		}
		p.lastHeader = append([]byte{sectionFull}, sections[n+1:]...)
	}
	if !p.parse() {
		return Description{}, false
	}
	return p.d, true
}

type descriptionParser struct {
	dec        *json.Decoder
	d          Description
	unmatched  []byte // the sections after those of the devices found so far
	lastHeader []byte // the first bytes of the last section
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
		return p.skipDevice(&p.d.Devices[n-1], p.lastHeader)
	case p.lastHeader == nil:
		return true
	}
	return bytes.Contains(p.unmatched, p.lastHeader)
}

// devices decodes the list and finds the section of each device but the last: parse
// looks for that one in the last section.
func (p *descriptionParser) devices() bool {
	list, err := p.dec.Token()
	if err != nil || list == nil { // null
		return err == nil
	}
	if list != json.Delim('[') {
		return false
	}
	for p.dec.More() {
		if n := len(p.d.Devices); n > 0 && !p.skipDevice(&p.d.Devices[n-1], []byte{sectionFull}) {
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

// skipDevice skips a device's section, which begins with the bytes of start. It returns
// false if there is none.
func (p *descriptionParser) skipDevice(device *DeviceDescription, start []byte) bool {
	if len(start) == 0 {
		return false
	}
	end := device.findSection(p.unmatched, start)
	if end < 0 {
		return false
	}
	p.unmatched = p.unmatched[end:]
	return true
}

func (p *descriptionParser) delim(want json.Delim) bool {
	got, err := p.dec.Token()
	return err == nil && got == want
}

// skipped is a JSON value that is discarded.
type skipped struct{}

func (*skipped) UnmarshalJSON([]byte) error { return nil }
