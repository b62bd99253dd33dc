package multifd

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/pagecodec"
)

// Method is a way to carry pages, by QEMU's name of it. It holds no state: the
// state of a channel is made by the two setups. A setup returns something
// ready, or an error and leaves nothing behind; Cleanup of what it returned
// frees all of it.
type Method interface {
	// Name is the value of QEMU's multifd-compression parameter.
	Name() string
	// Flag is the method's bits in a packet's flags, 0 for none.
	Flag() Flags
	// Levels are the compression levels that SetupSend takes besides 0.
	Levels() Levels
	// SetupSend readies one channel to send.
	SetupSend(ChannelConfig) (SendState, error)
	// SetupReceive readies one channel to receive.
	SetupReceive(ChannelConfig) (ReceiveState, error)
}

// ChannelConfig is what a method has to know to be set up for a channel.
type ChannelConfig struct {
	// Channel is the id, for errors.
	Channel int
	// PageSize is the target page size in bytes.
	PageSize int
	// Level is the method's own compression level, 0 for its default.
	Level int
	// Accelerator is what qpl uses; nil is software.
	Accelerator *pagecodec.Accelerator
	// StateBudget, if not nil, is asked for the bytes of device-state packets
	// before memory is taken for them, for a bound over all channels. Its error
	// ends the reading.
	StateBudget func(bytes int) error
}

// SendState carries the pages of one channel out.
type SendState interface {
	// Prepare turns out.Batch into the payload: it appends it to out.Payload,
	// says its bytes in out.PayloadLen and counts out.Compressed. The vectors may point into the
	// batch and are written before the next Prepare. It is called for batches
	// with normal pages only.
	Prepare(out *Outgoing) error
	// TakesDeflated says whether a batch may come in the form Deflated.
	TakesDeflated() bool
	// Cleanup frees what the setup made.
	Cleanup()
}

// OverlappingSend is a SendState that can work on a batch of raw pages while the
// one before is written. If Overlaps, Begin is called for each such batch in order,
// Prepare for the same one or one later, and Written when a packet is written.
type OverlappingSend interface {
	SendState
	// Overlaps reports whether it gains time to begin a batch early.
	Overlaps() bool
	Begin(b *guest.Batch) error
	Written()
}

// Outgoing is a packet that is being made.
type Outgoing struct {
	Batch      *guest.Batch
	Payload    net.Buffers
	PayloadLen int
	// Compressed counts the pages that are in the payload in another form
	// than their own bytes.
	Compressed int
}

// ReceiveState takes the pages of one channel in.
type ReceiveState interface {
	// Receive reads exactly in.Packet.PayloadLen bytes of payload and puts
	// the packet's normal pages into in.Lane. It is called for packets with
	// normal pages only.
	Receive(in *Incoming) error
	// Flush returns when all pages that were received are in place: a method may
	// still be putting them there when Receive has returned. It is called before
	// each sync point is met, and belongs to the interface so that no wrapper can
	// lose it.
	Flush() error
	// Cleanup frees what the setup made.
	Cleanup()
}

// Incoming is a packet whose payload is to be read.
type Incoming struct {
	Packet *Packet
	Lane   guest.Lane
	// Payload reads the channel.
	Payload *Reader
}

var methods = []Method{None, Zlib, Zstd, QPL, UADK, QATzip}

// Methods returns all methods in the order of QEMU's parameter.
func Methods() []Method { return slices.Clone(methods) }

// MethodNamed returns the method of that name, or an error that lists the
// names and wraps ErrUnknownMethod.
func MethodNamed(name string) (Method, error) {
	var names []string
	for _, m := range methods {
		if m.Name() == name {
			return m, nil
		}
		names = append(names, m.Name())
	}
	return nil, fmt.Errorf("%w %q (known: %s)", ErrUnknownMethod, name, strings.Join(names, ", "))
}
