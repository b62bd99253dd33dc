package agreement

import (
	"fmt"

	"github.com/vmferry/vmferry/snapshot"
)

// Description describes a QEMU and its machine to the other side. Empty fields are not
// known.
type Description struct {
	// Vmferry and QEMU are versions.
	Vmferry string `json:"vmferry,omitempty"`
	QEMU    string `json:"qemu,omitempty"`
	// Machine is the machine type; Alias is another name that this QEMU has for it.
	Machine string `json:"machine,omitempty"`
	Alias   string `json:"alias,omitempty"`
	UUID    string `json:"uuid,omitempty"`
	// RunState is the machine's.
	RunState string            `json:"run_state,omitempty"`
	Hardware snapshot.Hardware `json:"hardware"`
	Blocks   []Block           `json:"blocks,omitempty"`
	// Capabilities are the names of the migration capabilities that this QEMU has.
	Capabilities []string `json:"capabilities,omitempty"`
}

// Block is a RAM block.
type Block struct {
	Name  string `json:"name"`
	Bytes uint64 `json:"bytes"`
}

// Bounds of a description and of other texts of a message.
const (
	maxText    = 256
	maxEntries = 4096
	maxReason  = 4096
	maxLines   = 1024
)

// check returns an error if the description is out of bounds.
func (d *Description) check() error {
	texts := []string{d.Vmferry, d.QEMU, d.Machine, d.Alias, d.UUID, d.RunState}
	texts = append(texts, d.Capabilities...)
	for _, b := range d.Blocks {
		texts = append(texts, b.Name)
	}
	for _, text := range texts {
		if len(text) > maxText {
			return fmt.Errorf("description: text of %d bytes (at most %d)", len(text), maxText)
		}
	}
	if err := d.Hardware.Check(); err != nil {
		return fmt.Errorf("description: %w", err)
	}
	return nil
}
