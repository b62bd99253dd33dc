package migration

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// readerPositions describes the positions of the readers of a stalled migration, from
// the errors that they returned.
func readerPositions(errs []error) string {
	var places []string
	for _, err := range errs {
		var stream *vmstate.StreamError
		var channel *multifd.ChannelError
		switch {
		case !errors.Is(err, transport.ErrStalled):
		case errors.As(err, &channel):
			places = append(places, fmt.Sprintf("channel %d was in packet %d (%s)", channel.Channel, channel.Packet, channel.Field))
		case errors.As(err, &stream):
			places = append(places, fmt.Sprintf("the main channel was at byte %d (%s)", stream.Offset, stream.Field))
		}
	}
	const most = 8
	if more := len(places) - most; more > 0 {
		places = append(places[:most], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(places, "; ")
}

// stallError returns the error of a stalled migration with the positions of its
// readers.
func stallError(err error, ends []error) error {
	for _, end := range append([]error{err}, ends...) {
		var stream *vmstate.StreamError
		var channel *multifd.ChannelError
		switch {
		case errors.As(end, &channel) && errors.Is(channel.Err, transport.ErrStalled):
			err = channel.Err
		case errors.As(end, &stream) && errors.Is(stream.Err, transport.ErrStalled):
			err = stream.Err
		default:
			continue
		}
		break
	}
	if places := readerPositions(ends); places != "" {
		return fmt.Errorf("%w: %s", err, places)
	}
	return err
}
