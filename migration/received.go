package migration

import (
	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/vmstate"
)

// Received is everything that was received except pages.
type Received struct {
	// Head is the stream's header and configuration. Devices is the rest of the
	// stream from the first device section on. Both are unchanged bytes.
	Head, Devices []byte
	// States are the device-state packets. Those of one channel are in its order.
	States   []devicestate.Packet
	Config   *vmstate.Configuration
	Layout   *guest.Layout
	SyncMode vmstate.SyncMode
	Commands []vmstate.Command
	UUID     [16]byte
	// ReturnPath is set if the source opened the return path and so waits for SHUT.
	ReturnPath bool
	// Verified is set if a handover ended with the machine running at this side: see
	// package live.
	Verified bool
	// ExtraSyncs is the number of SYNCs without a sync point of the main channel. No
	// page followed them.
	ExtraSyncs int
}

// OwnerState returns the state that a Go program sent with its memory (package live).
// Its errors are those of vmstate.ParseOwnerState.
func (r *Received) OwnerState() ([]byte, error) { return vmstate.ParseOwnerState(r.Devices) }

// HasPing reports whether the source sent a PING of that value.
func (r *Received) HasPing(value uint32) bool { return hasPing(r.Commands, value) }

func hasPing(commands []vmstate.Command, value uint32) bool {
	for _, c := range commands {
		if v, ok := c.PingValue(); ok && v == value {
			return true
		}
	}
	return false
}
