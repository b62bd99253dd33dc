package migration

import (
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/vmstate"
)

// ReceiveConfig says what is expected and where it goes.
type ReceiveConfig struct {
	Wire
	// Sink takes the pages.
	Sink guest.Sink
	// UUID, if not all zero, is what the source's machine has to have.
	UUID [16]byte
	// TLS, if not nil, is required of every connection.
	TLS *tls.Config
	// ConnectTimeout bounds the wait for the source's connections; 0 waits
	// forever.
	ConnectTimeout time.Duration
	// Main directs the reading of the main channel. Its MaxDevices, 1 GiB if it is
	// 0, bounds all device state together: the main channel's and that in
	// device-state packets of all channels.
	Main vmstate.DestinationOptions
	// MaxMemory bounds the memory that the source's machine may have, in bytes; 0 is
	// vmstate.DefaultMaxMemory. More is refused before anything is made for it.
	MaxMemory uint64
	// Commit, if not nil, is called when everything has arrived and the sink's
	// lanes are closed. A source with a return path is told how that went, and
	// goes by it.
	Commit func(*Received) error
	// Handover, if not nil, takes the place of the answer to a source that asks for
	// a handover (vmstate.WordAsk). It is called after Commit, when all data is in
	// place, and answers the source itself. The listener has to be one that
	// transport.CanReopen.
	Handover func(*Inbound) error
	// Pace, if not nil, bounds the bytes a second that are read.
	Pace *Pace
	// Logger, if not nil, gets what is odd but no error.
	Logger *slog.Logger

	identifyWithin time.Duration // instead of the constant, for tests
}
