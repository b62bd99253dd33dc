package iaa

import (
	"fmt"
	"strings"
)

// Capability bits of DeviceInfo.GenCap and DeviceInfo.IAACap.
const (
	GenCapBlockOnFault uint64 = 1 << 0
	GenCapDecompress   uint64 = 1 << 40
	IAACapHeaderGen    uint64 = 1 << 8
)

// Reason is the cause, for programs, why a device or queue is not usable.
type Reason string

// Reasons.
const (
	ReasonNoDriver     Reason = "no-driver"
	ReasonNoDevice     Reason = "no-device"
	ReasonUnreadable   Reason = "unreadable"
	ReasonDisabled     Reason = "disabled"
	ReasonNoPASID      Reason = "no-pasid"
	ReasonNoQueue      Reason = "no-queue"
	ReasonNotUser      Reason = "not-user"
	ReasonNoNode       Reason = "no-node"
	ReasonPermission   Reason = "no-permission"
	ReasonBusy         Reason = "busy"
	ReasonNoSubmission Reason = "no-submission"
	ReasonFilter       Reason = "filtered"
	ReasonTransfer     Reason = "transfer-too-small"
	ReasonInherited    Reason = "inherited"
	ReasonFailed       Reason = "failed"
)

// Problem is why a device or queue is not usable, and how to fix it.
type Problem struct {
	Reason Reason `json:"reason"`
	Text   string `json:"text"`   // what is wrong
	Advice string `json:"advice"` // how to fix it
}

// String returns the text and the advice in one line.
func (p *Problem) String() string { return p.Text + ": " + p.Advice }

// QueueInfo is a work queue as its sysfs attributes describe it.
type QueueInfo struct {
	Name         string   `json:"name"` // "wq1.0"
	Path         string   `json:"path"` // of the character device
	State        string   `json:"state"`
	Type         string   `json:"type"`
	Driver       string   `json:"driver,omitempty"`
	Mode         string   `json:"mode"` // "shared" or "dedicated"
	Size         int      `json:"size"` // descriptors it holds
	Threshold    int      `json:"threshold"`
	Priority     int      `json:"priority"`
	BlockOnFault bool     `json:"block_on_fault"`
	MaxTransfer  uint64   `json:"max_transfer_size"`
	Device       string   `json:"device"`
	Node         int      `json:"numa_node"`
	Submission   string   `json:"submission,omitempty"` // how Probe could submit: enqcmd, movdir64b or write
	Problem      *Problem `json:"problem,omitempty"`
}

// Capacity returns how many descriptors of a process may wait in the queue.
func (q *QueueInfo) Capacity() int {
	if q.Mode == modeShared && q.Threshold > 0 {
		return min(q.Threshold, q.Size)
	}
	return q.Size
}

// transfer returns how many bytes a job on the queue may read or write.
func (q *QueueInfo) transfer() uint64 { return limitOf(q.MaxTransfer) }

// DeviceInfo is an accelerator as its sysfs attributes describe it.
type DeviceInfo struct {
	Name        string      `json:"name"` // "iax1"
	State       string      `json:"state"`
	Version     uint32      `json:"version"` // 0x100 or 0x200
	PASID       bool        `json:"pasid_enabled"`
	GenCap      uint64      `json:"gen_cap"`
	IAACap      uint64      `json:"iaa_cap"`
	Node        int         `json:"numa_node"` // -1 if the machine has none
	Engines     int         `json:"max_engines"`
	MaxQueues   int         `json:"max_work_queues"`
	MaxEntries  int         `json:"max_work_queues_size"` // descriptors in all queues together
	MaxTransfer uint64      `json:"max_transfer_size"`
	Queues      []QueueInfo `json:"queues"`
	Problem     *Problem    `json:"problem,omitempty"`
}

// HeaderGen reports whether the device builds dynamic Huffman tables itself.
func (d *DeviceInfo) HeaderGen() bool { return d.Version >= 0x200 && d.IAACap&IAACapHeaderGen != 0 }

// Inventory lists all accelerators, usable or not.
type Inventory struct {
	Instructions Instructions `json:"instructions"`
	Devices      []DeviceInfo `json:"devices"`
	Problem      *Problem     `json:"problem,omitempty"` // set if there are no devices
}

// Usable returns the queues without a problem.
func (inv *Inventory) Usable() []QueueInfo {
	var out []QueueInfo
	for _, d := range inv.Devices {
		for _, q := range d.Queues {
			if q.Problem == nil {
				out = append(out, q)
			}
		}
	}
	return out
}

// Explain describes in a few lines why no queue is usable and how to fix it. It returns
// an empty string if a queue is usable.
func (inv *Inventory) Explain() string {
	if len(inv.Usable()) > 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("no IAA work queue is usable\n")
	if inv.Problem != nil {
		fmt.Fprintf(&b, "  %v\n", inv.Problem)
	}
	for _, d := range inv.Devices {
		if d.Problem != nil {
			fmt.Fprintf(&b, "  %s: %v\n", d.Name, d.Problem)
			continue // its queues have the same problem
		}
		for _, q := range d.Queues {
			fmt.Fprintf(&b, "  %s/%s: %v\n", d.Name, q.Name, q.Problem)
		}
	}
	return b.String()
}

const (
	modeShared    = "shared"
	modeDedicated = "dedicated"
)

// Setup describes how an administrator configures usable queues. Explain ends with it
// on a terminal.
const Setup = `To set up one shared queue a device:
  kernel command line: intel_iommu=on,sm_on  (and no "iommu=off")
  modprobe idxd
  accel-config config-engine iax1/engine1.0 --group-id=0   (each engine)
  accel-config config-wq iax1/wq1.0 --group-id=0 --type=user --driver-name=user \
    --name=vmferry --mode=shared --size=128 --threshold=128 --priority=10
  accel-config enable-device iax1
  accel-config enable-wq iax1/wq1.0
  chgrp kvm /dev/iax/wq1.0 && chmod 660 /dev/iax/wq1.0
`
