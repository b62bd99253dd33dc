package vmstate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
)

// ErrNoDescription is wrapped when a source with a return path ends its device state
// without a VM description.
var ErrNoDescription = errors.New("device state without VM description")

// errQuiet is returned when no byte arrives for DestinationOptions.Quiet.
var errQuiet = errors.New("no byte arrived")

// nextDevices reads the next bytes of device state. If the device state can end here
// and the source waits for SHUT, nextDevices waits no longer than Quiet.
func (d *Destination) nextDevices() (*Event, error) {
	timed, ok := d.stream.(interface{ SetReadDeadline(time.Time) error })
	if !d.returnPath || !ok || !canEndHere(d.devices) {
		return d.Next()
	}
	if err := timed.SetReadDeadline(time.Now().Add(d.opts.Quiet)); err != nil {
		return nil, err
	}
	e, err := d.Next()
	timed.SetReadDeadline(time.Time{}) // after a failure the next read fails too
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, errQuiet
	}
	return e, err
}

// endAfterQuiet handles a source that is silent at a possible end of its device state.
// Device state carries no lengths, so only silence distinguishes the end from a pause;
// the option NoDescription accepts that. endAfterQuiet returns false if the sections
// are incomplete, so that more bytes must follow.
func (d *Destination) endAfterQuiet() (bool, error) {
	if !isSectionChain(d.devices) {
		return false, nil
	}
	if !d.opts.NoDescription {
		return true, d.fail("device state", fmt.Errorf("%w: the source waits for a reply after %d bytes (it has the machine option suppress-vmdesc and the capability return-path: turn either off at the source, or use receive --no-description)",
			ErrNoDescription, len(d.devices)))
	}
	d.endedBySilence = true
	return true, nil
}

// EndedBySilence reports whether the stream was taken to end because the source was
// silent for DestinationOptions.Quiet. A later byte proves that it had not ended.
func (d *Destination) EndedBySilence() bool { return d.endedBySilence }

// WithDescription appends an empty description to device state that has none. A QEMU
// destination without the machine option suppress-vmdesc waits for a description.
func WithDescription(devices []byte) []byte {
	if _, ok := FindEnd(devices); ok || !bytes.HasSuffix(devices, []byte{sectionEOF}) {
		return devices
	}
	const empty = "{}"
	out := append(bytes.Clone(devices), sectionDescription)
	out = binary.BigEndian.AppendUint32(out, uint32(len(empty)))
	return append(out, empty...)
}

// canEndHere reports whether device state without a description can end here: after an
// EOF byte that stands alone or follows a section footer.
func canEndHere(devices []byte) bool {
	n := len(devices)
	return n == 1 && devices[0] == sectionEOF || n > footerLen && devices[n-1] == sectionEOF && devices[n-1-footerLen] == sectionFooter
}

// isSectionChain reports whether the device state can be a sequence of FULL sections
// and an EOF byte. Each section begins with a header and ends with the footer of its
// id, and the next header follows. All ids differ.
func isSectionChain(devices []byte) bool {
	end := len(devices) - 1
	seen := make(map[uint32]bool)
	for at := 0; at < end; {
		if at = findSectionEnd(devices[:end], at, seen); at < 0 {
			return false
		}
	}
	return end >= 0 && devices[end] == sectionEOF
}

// findSectionEnd returns the end of the section that begins at offset at, -1 if there
// is none.
func findSectionEnd(sections []byte, at int, seen map[uint32]bool) int {
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
		from += i + 1 // device data can contain the bytes of the footer
	}
}

// fullHeader returns the section id of a FULL section's header, and the header's
// length in bytes, -1 if b begins with no such header.
func fullHeader(b []byte) (id uint32, n int) {
	const before, after = 6, 8 // type, id and name length; instance and version
	if len(b) < before || b[0] != sectionFull || b[5] == 0 {
		return 0, -1
	}
	if n = before + int(b[5]) + after; len(b) < n {
		return 0, -1
	}
	for _, c := range b[before : before+int(b[5])] {
		if c < ' ' || c > '~' {
			return 0, -1
		}
	}
	return binary.BigEndian.Uint32(b[1:]), n
}
