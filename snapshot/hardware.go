package snapshot

import "fmt"

// Hardware describes the hardware of a saved machine, as far as its QEMU reports it. A
// restore compares it with the destination QEMU before it sends a page. A zero or empty
// field is unknown.
type Hardware struct {
	// KVM reports whether KVM ran the machine.
	KVM     bool         `json:"kvm,omitempty"`
	CPU     CPUInfo      `json:"cpu"`
	Memory  MemoryInfo   `json:"memory"`
	Devices []DeviceInfo `json:"devices,omitempty"`
	// Onboard counts the devices without an ID, by type: the devices that the
	// machine type and options such as -serial create.
	Onboard map[string]int `json:"onboard,omitempty"`
}

// CPUInfo describes the virtual CPUs.
type CPUInfo struct {
	// Type is QEMU's name of the CPU type, such as "qemu64-x86_64-cpu". Target is
	// QEMU's name of the architecture.
	Type   string `json:"type,omitempty"`
	Target string `json:"target,omitempty"`
	// Signature is vendor, family, model and stepping of an x86 CPU.
	Signature string `json:"signature,omitempty"`
	Count     int    `json:"count,omitempty"`
	// Topology has the numbers of the option -smp: "maxcpus", "sockets", "cores", ...
	Topology map[string]int `json:"topology,omitempty"`
	// Features are the CPUID registers that are not zero. The key is the leaf, the
	// subleaf if the leaf has one, and the register, such as "7.0.EBX". Numbers
	// in the key are hexadecimal.
	Features map[string]uint32 `json:"features,omitempty"`
}

// MemoryInfo has the values of the option -m. Size and MaxSize are in bytes.
type MemoryInfo struct {
	Size    uint64 `json:"size,omitempty"`
	Slots   uint64 `json:"slots,omitempty"`
	MaxSize uint64 `json:"max_size,omitempty"`
}

// DeviceInfo is one device of the option -device or the command device_add.
type DeviceInfo struct {
	ID   string `json:"id,omitempty"`
	Type string `json:"type"`
	// Bus is the name of the device's bus. Address is its address on a PCI bus.
	Bus     string `json:"bus,omitempty"`
	Address string `json:"address,omitempty"`
}

// Limits of the hardware record in a manifest: the length of a text in bytes, and the
// number of entries of a list or map.
const (
	maxHardwareText    = 256
	maxHardwareEntries = 4096
)

// Check returns an error if the record exceeds the limits of the format, or if a count
// is negative. A nil record is valid.
func (h *Hardware) Check() error {
	if h == nil {
		return nil
	}
	for _, n := range []int{len(h.Devices), len(h.Onboard), len(h.CPU.Topology), len(h.CPU.Features)} {
		if n > maxHardwareEntries {
			return fmt.Errorf("hardware: list of %d entries (at most %d)", n, maxHardwareEntries)
		}
	}
	texts := []string{h.CPU.Type, h.CPU.Target, h.CPU.Signature}
	for _, d := range h.Devices {
		texts = append(texts, d.ID, d.Type, d.Bus, d.Address)
	}
	counts := []int{h.CPU.Count}
	for name, n := range h.Onboard {
		texts, counts = append(texts, name), append(counts, n)
	}
	for name, n := range h.CPU.Topology {
		texts, counts = append(texts, name), append(counts, n)
	}
	for name := range h.CPU.Features {
		texts = append(texts, name)
	}
	for _, text := range texts {
		if len(text) > maxHardwareText {
			return fmt.Errorf("hardware: text of %d bytes (at most %d)", len(text), maxHardwareText)
		}
	}
	for _, n := range counts {
		if n < 0 {
			return fmt.Errorf("hardware: negative count %d", n)
		}
	}
	return nil
}
