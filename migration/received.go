package migration

import (
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/vmstate"
)

// Received is what came besides pages.
type Received struct {
	// Head is the stream's header and configuration, and Devices all from the
	// first device section on, byte for byte.
	Head, Devices []byte
	// States are the device-state packets in the order in which they came,
	// each channel's in its own.
	States   []multifd.DeviceState
	Config   *vmstate.Configuration
	Layout   *guest.Layout
	SyncMode vmstate.SyncMode
	Commands []vmstate.Command
	UUID     [16]byte
	// ReturnPath says that the source waits to be told how it went.
	ReturnPath bool
	// Verified says that the source knows that this side runs: see package live.
	Verified bool
	// ExtraSyncs are SYNCs that the main channel had no sync point for. No
	// page followed them.
	ExtraSyncs int
}

// OwnerState returns the state that the owner of a Go program's memory sent: see
// package live.
func (r *Received) OwnerState() ([]byte, error) { return vmstate.ParseOwnerState(r.Devices) }

// HasPing tells whether the source sent a PING of that value.
func (r *Received) HasPing(word uint32) bool { return hasPing(r.Commands, word) }

func hasPing(commands []vmstate.Command, word uint32) bool {
	for _, c := range commands {
		if w, ok := c.PingValue(); ok && w == word {
			return true
		}
	}
	return false
}
