package migration

import (
	"fmt"
	"time"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/pagecodec"
	"github.com/vmferry/vmferry/transport"
)

// Wire says how a migration goes over its connections. It is part of every
// configuration of a migration, of either side. The zero value is ready for use.
type Wire struct {
	// Channels is the number of multifd channels, 1 to multifd.MaxChannels; 0 is 2.
	// Both sides need the same.
	Channels int
	// Method carries the pages; nil is multifd.None. Both sides need the same.
	Method multifd.Method
	// Level is the method's compression level, of a source; 0 is its default.
	Level int
	// Accelerator is what qpl uses; nil is software. Its owner closes it when the
	// migration has ended.
	Accelerator *pagecodec.Accelerator
	// LinkTimeout is how long a TCP peer may acknowledge nothing, and how long
	// dialing a connection may take; 0 is 30 s. A peer that acknowledges is alive.
	LinkTimeout time.Duration
	// StallTimeout is how long no byte may move on any connection while this side
	// waits for the other, before that is an error that wraps
	// transport.ErrStalled; 0 is 2 minutes, less than 0 is forever. The work of this
	// side does not count.
	StallTimeout time.Duration
	// Counters, if not nil, are kept up to date.
	Counters *Counters
}

// WithDefaults returns w with the defaults in place of zero values. It fails for values
// that no migration can have.
func (w Wire) WithDefaults() (Wire, error) {
	if w.Channels == 0 {
		w.Channels = 2
	}
	if w.Channels < 1 || w.Channels > multifd.MaxChannels {
		return w, fmt.Errorf("%w: %d channels (want 1 to %d)", transport.ErrChannels, w.Channels, multifd.MaxChannels)
	}
	if w.Method == nil {
		w.Method = multifd.None
	}
	if w.Counters == nil {
		w.Counters = new(Counters)
	}
	return w, nil
}
