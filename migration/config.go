package migration

import (
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/vmstate"
)

// ReceiveConfig configures Receive. Sink is required.
type ReceiveConfig struct {
	Wire
	// Sink receives the pages.
	Sink guest.Sink
	// UUID, if not all zero, is the required UUID of the source's machine.
	UUID [16]byte
	// TLS, if not nil, is required of every connection.
	TLS *tls.Config
	// ConnectTimeout bounds the wait for the source's connections; 0 waits
	// forever.
	ConnectTimeout time.Duration
	// Main configures the reading of the main channel. Its MaxDevices, 1 GiB if 0,
	// bounds the bytes of all device state: of the main channel and of the
	// device-state packets of all channels.
	Main vmstate.DestinationOptions
	// MaxMemory bounds the memory of the source's machine in bytes; 0 is
	// vmstate.DefaultMaxMemory. It is checked before anything is allocated.
	MaxMemory uint64
	// Commit, if not nil, is called when everything has arrived and the sink's
	// lanes are closed. Its error fails the migration; a source with a return path
	// receives SHUT 1.
	Commit func(*Received) error
	// Handover, if not nil, replaces the final SHUT to a source that requests a
	// handover (vmstate.HandoverRequest). It is called after Commit and sends the
	// SHUT itself. It needs a listener for which transport.CanReopen is true.
	Handover func(*Inbound) error
	// Pace, if not nil, limits the bytes per second that are read.
	Pace *Pace
	// Logger, if not nil, receives warnings.
	Logger *slog.Logger

	identifyWithin time.Duration // transport.AcceptConfig.IdentifyWithin, for tests
}
