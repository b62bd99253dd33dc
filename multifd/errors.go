package multifd

import (
	"errors"
	"fmt"
)

var (
	// ErrMalformed is wrapped by every error about bytes that violate the protocol.
	ErrMalformed = errors.New("malformed multifd stream")
	// ErrTruncated is wrapped if a channel ends within a packet.
	ErrTruncated = errors.New("multifd channel ended early")
	// ErrUnknownMethod is wrapped if no method has the requested name.
	ErrUnknownMethod = errors.New("unknown multifd method")
)

// ChannelError locates an error on the wire.
type ChannelError struct {
	// Channel is the channel's id, or -1 before it is known.
	Channel int
	// Packet is the number of the channel's packet, from 1; 0 is the handshake.
	Packet uint64
	// Field is the part of the packet, as the protocol names it.
	Field string
	Err   error
}

func (e *ChannelError) Error() string {
	where := "handshake"
	if e.Packet > 0 {
		where = fmt.Sprintf("packet %d", e.Packet)
	}
	if e.Channel < 0 {
		return fmt.Sprintf("multifd channel (id not known yet): %s: %s: %v", where, e.Field, e.Err)
	}
	return fmt.Sprintf("multifd channel %d: %s: %s: %v", e.Channel, where, e.Field, e.Err)
}

func (e *ChannelError) Unwrap() error { return e.Err }

// fieldError is a decoder's error about one field. The receiver adds the channel and
// the packet.
type fieldError struct {
	field string
	err   error
}

func (e *fieldError) Error() string { return e.field + ": " + e.err.Error() }
func (e *fieldError) Unwrap() error { return e.err }

func malformed(field, format string, args ...any) error {
	return &fieldError{field, fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))}
}

func inField(field string, err error) error {
	if err == nil {
		return nil
	}
	return &fieldError{field, err}
}
