package multifd

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/pagecodec"
)

// Method is a way to carry pages, named as in QEMU. It holds no state: SetupSend and
// SetupReceive make the state of a channel. A setup that fails leaves nothing
// allocated. Cleanup of the state frees what its setup allocated.
type Method interface {
	// Name is the value of QEMU's multifd-compression parameter.
	Name() string
	// Flag is the method's bits in a packet's flags, 0 for none.
	Flag() Flags
	// Levels are the compression levels that SetupSend accepts besides 0.
	Levels() Levels
	// SetupSend prepares one channel for sending.
	SetupSend(ChannelConfig) (SendState, error)
	// SetupReceive prepares one channel for receiving.
	SetupReceive(ChannelConfig) (ReceiveState, error)
}

// ChannelConfig configures a method for one channel.
type ChannelConfig struct {
	// Channel is the id, for errors.
	Channel int
	// PageSize is the target page size in bytes.
	PageSize int
	// Level is the method's own compression level, 0 for its default.
	Level int
	// Accelerator is what qpl uses; nil is software.
	Accelerator *pagecodec.Accelerator
	// StateBudget, if not nil, is called with a number of bytes before they are
	// allocated for a device-state packet. It bounds the device state of all channels
	// together; its error ends the reading.
	StateBudget func(bytes int) error
}

// SendState encodes the pages that one channel sends.
type SendState interface {
	// Prepare encodes out.Batch: it appends the payload to out.Payload and sets
	// out.PayloadLen and out.Compressed. The vectors may point into the batch; they are
	// written before the next Prepare. Prepare is called only for batches with normal
	// pages.
	Prepare(out *Outgoing) error
	// TakesDeflated reports whether a batch may have the form Deflated.
	TakesDeflated() bool
	// Cleanup frees what the setup allocated.
	Cleanup()
}

// OverlappingSend is a SendState that can encode a batch of raw pages while the packet
// before is written. If Overlaps returns true, Begin is called for each such batch in
// order. Prepare follows for the same batch, at the latest after Begin of the next one,
// and Written when the packet is written.
type OverlappingSend interface {
	SendState
	// Overlaps reports whether early calls of Begin save time.
	Overlaps() bool
	Begin(b *guest.Batch) error
	Written()
}

// Outgoing is a packet to send, in the making.
type Outgoing struct {
	Batch      *guest.Batch
	Payload    net.Buffers
	PayloadLen int
	// Compressed counts the pages that the payload holds in a compressed form.
	Compressed int
}

// ReceiveState decodes the pages that one channel receives.
type ReceiveState interface {
	// Receive reads exactly in.Packet.PayloadLen bytes of payload and puts the packet's
	// normal pages into in.Lane. It is called only for packets with normal pages.
	Receive(in *Incoming) error
	// Flush returns when all pages that were received are in place; a method may still
	// decode them after Receive has returned. Flush is called before each sync point is
	// met. It is in this interface so that every wrapper must forward it.
	Flush() error
	// Cleanup frees what the setup allocated.
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
