package migration

import (
	"fmt"
	"time"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/pagecodec"
	"github.com/vmferry/vmferry/transport"
)

// Wire configures the connections of a migration. It is part of the configurations of
// both sides. The zero value is ready for use.
type Wire struct {
	// Channels is the number of multifd channels, 1 to multifd.MaxChannels; 0 is 2.
	// Both sides need the same number.
	Channels int
	// Method is the compression method; nil is multifd.None. Both sides need the
	// same method.
	Method multifd.Method
	// Level is the source's compression level; 0 is the default of the method.
	Level int
	// Accelerator is used by the method qpl; nil is software. The caller closes it
	// after the migration.
	Accelerator *pagecodec.Accelerator
	// LinkTimeout is the longest time without an acknowledgement from a TCP peer,
	// and the longest time that dialing a connection may take; 0 is 30 s.
	LinkTimeout time.Duration
	// StallTimeout is how long no byte may move on any connection while this side
	// waits for the peer, before the migration fails with an error that wraps
	// transport.ErrStalled; 0 is 2 minutes, a negative value is forever. Time in
	// which this side works does not count.
	StallTimeout time.Duration
	// Counters, if not nil, are updated during the migration.
	Counters *Counters
}

// WithDefaults returns w with defaults in place of zero values. It returns an error
// that wraps transport.ErrChannels if Channels is out of range.
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
