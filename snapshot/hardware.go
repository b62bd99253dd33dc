package snapshot

import "fmt"

// Hardware is what a saved machine was made of, as far as its QEMU told: what
// a QEMU that is to restore the machine is compared with before a page is
// sent. What is zero or empty is not known.
type Hardware struct {
	// KVM tells that KVM ran the machine.
	KVM     bool         `json:"kvm,omitempty"`
	CPU     CPUInfo      `json:"cpu"`
	Memory  MemoryInfo   `json:"memory"`
	Devices []DeviceInfo `json:"devices,omitempty"`
	// Onboard counts the devices that nobody named, by their type: what the
	// machine type and options such as -serial make.
	Onboard map[string]int `json:"onboard,omitempty"`
}

// CPUInfo is what the virtual CPUs are.
type CPUInfo struct {
	// Type is QEMU's name of the type, such as "qemu64-x86_64-cpu", Target
	// the architecture.
	Type   string `json:"type,omitempty"`
	Target string `json:"target,omitempty"`
	// Signature is vendor, family, model and stepping of an x86 CPU.
	Signature string `json:"signature,omitempty"`
	Count     int    `json:"count,omitempty"`
	// Topology has the numbers of -smp: "maxcpus", "sockets", "cores", ...
	Topology map[string]int `json:"topology,omitempty"`
	// Features are the words of CPUID that are not zero, by leaf, subleaf if
	// there is one, and register, all in hexadecimal: "7.0.EBX".
	Features map[string]uint32 `json:"features,omitempty"`
}

// MemoryInfo is what -m said, in bytes.
type MemoryInfo struct {
	Size    uint64 `json:"size,omitempty"`
	Slots   uint64 `json:"slots,omitempty"`
	MaxSize uint64 `json:"max_size,omitempty"`
}

// DeviceInfo is one device of -device or device_add.
type DeviceInfo struct {
	ID   string `json:"id,omitempty"`
	Type string `json:"type"`
	// Bus is the name of the bus it is on, Address where on a PCI bus.
	Bus     string `json:"bus,omitempty"`
	Address string `json:"address,omitempty"`
}

// Bounds of what a manifest may say of the hardware.
const (
	maxHardwareText    = 256
	maxHardwareEntries = 4096
)

// Check tells whether the record keeps to the bounds that readers have.
func (h *Hardware) Check() error {
	if h == nil {
		return nil
	}
	for _, n := range []int{len(h.Devices), len(h.Onboard), len(h.CPU.Topology), len(h.CPU.Features)} {
		if n > maxHardwareEntries {
			return fmt.Errorf("hardware: a list of %d entries (at most %d)", n, maxHardwareEntries)
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
			return fmt.Errorf("hardware: a text of %d bytes (at most %d)", len(text), maxHardwareText)
		}
	}
	for _, n := range counts {
		if n < 0 {
			return fmt.Errorf("hardware: a count of %d", n)
		}
	}
	return nil
}
