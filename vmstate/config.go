package vmstate

import (
	"encoding/binary"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/vmferry/vmferry/guest"
)

// Configuration is the content of the stream's configuration section.
type Configuration struct {
	// Machine is the machine type, such as "pc-q35-7.2".
	Machine string
	// PageBits is the log2 of the target page size in bytes; 0 if the stream
	// omits it, which means 4 KiB.
	PageBits uint32
	// Capabilities are the migration capabilities that change the stream.
	Capabilities []string
	// UUID is the machine's UUID, valid if HasUUID is set. QEMU sends it with the
	// capability validate-uuid.
	UUID    [16]byte
	HasUUID bool
}

// PageSize returns the target page size in bytes.
func (c *Configuration) PageSize() int {
	if c.PageBits == 0 {
		return guest.DefaultPageSize
	}
	return 1 << c.PageBits
}

const maxNameLen = 255 // of a machine: the field is a u32

// readConfiguration reads the section behind its type byte.
func readConfiguration(in *input) (*Configuration, error) {
	n := in.u32()
	if in.err == nil && n > maxNameLen {
		return nil, fmt.Errorf("%w: a machine name of %d bytes", ErrMalformed, n)
	}
	if in.err != nil {
		return nil, in.err
	}
	c := &Configuration{Machine: string(in.next(int(n)))}
	if in.err == nil && !utf8.ValidString(c.Machine) { // a manifest is JSON
		return nil, fmt.Errorf("%w: machine type %q is not UTF-8", ErrMalformed, c.Machine)
	}
	var seen []string
	for in.peek() == sectionSubsection && in.err == nil {
		in.byte()
		name := in.name()
		version := in.u32()
		if in.err != nil {
			return nil, in.err
		}
		if version != 1 {
			return nil, fmt.Errorf("%w: subsection %q version %d", ErrMalformed, name, version)
		}
		if slices.Contains(seen, name) { // bounds the length of the head
			return nil, fmt.Errorf("%w: duplicate subsection %q", ErrMalformed, name)
		}
		seen = append(seen, name)
		switch name {
		case "configuration/target-page-bits":
			c.PageBits = in.u32()
			if in.err == nil && (c.PageBits < 10 || c.PageBits > 16) {
				return nil, fmt.Errorf("%w: target page bits %d (want 10 to 16)", ErrMalformed, c.PageBits)
			}
		case "configuration/capabilities":
			count := in.u32()
			if in.err == nil && count > 256 {
				return nil, fmt.Errorf("%w: %d capabilities", ErrMalformed, count)
			}
			for range count {
				if in.err != nil {
					break
				}
				c.Capabilities = append(c.Capabilities, in.name())
			}
		case "configuration/uuid":
			in.fill(c.UUID[:])
			c.HasUUID = true
		default:
			return nil, fmt.Errorf("%w: unknown subsection %q", ErrMalformed, name)
		}
	}
	if in.err != nil {
		return nil, in.err
	}
	for _, cap := range c.Capabilities {
		switch cap {
		case "x-ignore-shared":
			return nil, &SectionError{ID: "configuration/capabilities", Reason: "x-ignore-shared omits shared memory from the stream (turn it off at the source)"}
		case "mapped-ram":
			return nil, &SectionError{ID: "configuration/capabilities", Reason: "mapped-ram is a file format (turn it off at the source)"}
		}
	}
	return c, nil
}

// WithCapability adds a capability to head, a stream's header and configuration as
// returned by Reader.Head. It returns head itself if the capability is there already.
func WithCapability(head []byte, capability string) ([]byte, error) {
	c, err := ParseHead(head)
	if err != nil {
		return nil, err
	}
	if slices.Contains(c.Capabilities, capability) {
		return head, nil
	}
	return (&Configuration{
		Machine: c.Machine, PageBits: c.PageBits, UUID: c.UUID, HasUUID: c.HasUUID,
		Capabilities: append(slices.Clone(c.Capabilities), capability),
	}).Head(), nil
}

// Head returns the stream's header and configuration section.
func (c *Configuration) Head() []byte {
	be := binary.BigEndian
	b := be.AppendUint32(nil, streamMagic)
	b = be.AppendUint32(b, streamVersion)
	b = append(b, sectionConfiguration)
	b = be.AppendUint32(b, uint32(len(c.Machine)))
	b = append(b, c.Machine...)
	sub := func(name string) {
		b = append(b, sectionSubsection, byte(len(name)))
		b = append(b, name...)
		b = be.AppendUint32(b, 1)
	}
	if c.PageBits != 0 {
		sub("configuration/target-page-bits")
		b = be.AppendUint32(b, c.PageBits)
	}
	if len(c.Capabilities) > 0 {
		sub("configuration/capabilities")
		b = be.AppendUint32(b, uint32(len(c.Capabilities)))
		for _, name := range c.Capabilities {
			b = append(b, byte(len(name)))
			b = append(b, name...)
		}
	}
	if c.HasUUID {
		sub("configuration/uuid")
		b = append(b, c.UUID[:]...)
	}
	return b
}
