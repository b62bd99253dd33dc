package vmstate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
)

// ErrNoDescription is wrapped when a source waits for the answer behind device
// state that has no description.
var ErrNoDescription = errors.New("no VM description")

// errQuiet says that nothing came for DestinationOptions.Quiet.
var errQuiet = errors.New("quiet")

// moreDevices reads on in the device state. Where the device state can end here and
// the source waits for the answer, it waits no longer than Quiet.
func (d *Destination) moreDevices() (*Event, error) {
	timed, ok := d.stream.(interface{ SetReadDeadline(time.Time) error })
	if !d.returnPath || !ok || !endsBare(d.devices) {
		return d.Next()
	}
	if err := timed.SetReadDeadline(time.Now().Add(d.opts.Quiet)); err != nil {
		return nil, err
	}
	e, err := d.Next()
	timed.SetReadDeadline(time.Time{}) // if that fails, so does the next read
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, errQuiet
	}
	return e, err
}

// endQuiet decides about a source that fell silent where it can have sent all. Device
// state carries no lengths, so that only the source's silence tells the end from a
// pause: whoever sets NoDescription accepts that. It returns false where the sections
// do not fit together, and so more has to come.
func (d *Destination) endQuiet() (bool, error) {
	if !sectionsChain(d.devices) {
		return false, nil
	}
	if !d.opts.NoDescription {
		return true, d.fail("device state", fmt.Errorf("%w: the source waits behind %d bytes of device state for the answer (machine option suppress-vmdesc, with the capability return-path): turn either off at the source, or accept a stream without a description (receive --no-description)",
			ErrNoDescription, len(d.devices)))
	}
	d.silent = true
	return true, nil
}

// EndedSilent says that only the source's silence showed the end of the stream. A byte
// that still comes proves that the stream had not ended.
func (d *Destination) EndedSilent() bool { return d.silent }

// WithDescription returns device state with an empty description behind it, if it has
// none: a destination waits for one unless it has the option suppress-vmdesc itself.
func WithDescription(devices []byte) []byte {
	if _, ok := FindEnd(devices); ok || !bytes.HasSuffix(devices, []byte{sectionEOF}) {
		return devices
	}
	const empty = "{}"
	out := append(bytes.Clone(devices), sectionDescription)
	out = binary.BigEndian.AppendUint32(out, uint32(len(empty)))
	return append(out, empty...)
}

// endsBare says whether device state without a description can end here: with the
// EOF byte behind a section's footer, or alone.
func endsBare(devices []byte) bool {
	n := len(devices)
	return n == 1 && devices[0] == sectionEOF || n > footerLen && devices[n-1] == sectionEOF && devices[n-1-footerLen] == sectionFooter
}

// sectionsChain says whether all of the device state can be FULL sections, one behind
// the other, and an EOF byte: each begins with a header, and ends with the footer of
// its own id in front of the next header. No id comes twice.
func sectionsChain(devices []byte) bool {
	end := len(devices) - 1
	seen := make(map[uint32]bool)
	for at := 0; at < end; {
		if at = endOfSection(devices[:end], at, seen); at < 0 {
			return false
		}
	}
	return end >= 0 && devices[end] == sectionEOF
}

// endOfSection returns where the section at that place ends, -1 if it cannot be told.
func endOfSection(sections []byte, at int, seen map[uint32]bool) int {
	id, header := fullHeader(sections[at:])
	if header < 0 || seen[id] {
		return -1
	}
	seen[id] = true
	footer := append([]byte{sectionFooter}, sections[at+1:at+5]...)
	for from := at + header; ; {
		i := bytes.Index(sections[from:], footer)
		if i < 0 {
			return -1
		}
		end := from + i + footerLen
		if end == len(sections) {
			return end
		}
		if next, n := fullHeader(sections[end:]); n > 0 && !seen[next] {
			return end
		}
		from += i + 1 // a device's data can hold its footer
	}
}

// fullHeader reads the header of a FULL section: its id, and its length; -1 if it is
// none.
func fullHeader(b []byte) (id uint32, n int) {
	const before, behind = 6, 8 // type, id and length of the name; instance and version
	if len(b) < before || b[0] != sectionFull || b[5] == 0 {
		return 0, -1
	}
	if n = before + int(b[5]) + behind; len(b) < n {
		return 0, -1
	}
	for _, c := range b[before : before+int(b[5])] {
		if c < ' ' || c > '~' {
			return 0, -1
		}
	}
	return binary.BigEndian.Uint32(b[1:]), n
}
