package migration

import (
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/pagecodec"
	"github.com/vmferry/vmferry/vmstate"
)

// ReceiveConfig says what is expected and where it goes.
type ReceiveConfig struct {
	// Channels and Method have to be those of the source.
	Channels int
	Method   multifd.Method
	Sink     guest.Sink
	// UUID, if not all zero, is what the source's machine has to have.
	UUID [16]byte
	// TLS, if not nil, is asked of every connection.
	TLS *tls.Config
	// ConnectTimeout bounds the wait for the source's connections; 0 waits
	// for good.
	ConnectTimeout time.Duration
	// LinkTimeout is how long a TCP link may be dead before that is an error;
	// 0 is half a minute. A source that acknowledges is alive.
	LinkTimeout time.Duration
	// StallTimeout is how long no byte may move on any of the connections
	// while this side waits for the source, before that is an error that wraps
	// ErrStalled; 0 is two minutes, less than 0 is for good. The time before
	// the source connects is ConnectTimeout's, and the work of this side does
	// not count.
	StallTimeout time.Duration
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
	// Accelerator is what qpl uses; nil is software. Its owner closes it.
	Accelerator *pagecodec.Accelerator
	// Pace, if not nil, bounds the bytes a second that are read.
	Pace *Pace
	// Progress, if not nil, is kept up to date.
	Counters *Counters
	// Logger, if not nil, gets what is odd but no error.
	Logger *slog.Logger

	identifyWithin time.Duration // instead of the constant, for tests
}
