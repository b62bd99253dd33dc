package vmstate

import "github.com/vmferry/vmferry/guest"

// EventKind is what an Event is.
type EventKind uint8

const (
	// EventSetup begins the first section of RAM with the RAM blocks, in Layout, and
	// the Mode. It comes once, before any page. An EventSync follows.
	EventSetup EventKind = iota + 1
	// EventSection begins a section of pages; Last says that it is the last one.
	EventSection
	// EventSectionEnd ends a section of either kind.
	EventSectionEnd
	// EventSync is a sync point: every multifd channel carries one SYNC.
	EventSync
	// EventZero says that the page at Offset of Block is zero.
	EventZero
	// EventPage brings the page at Offset of Block in Data.
	EventPage
	// EventCommand brings a command.
	EventCommand
	// EventDevices brings the next bytes of device state in Data: in pieces as they
	// arrive, from the first device section on. The stream carries no length of
	// it. See FindEnd.
	EventDevices
)

// Event is one element of the main channel, in the stream's order. It is valid until
// the next call of the Reader.
type Event struct {
	Kind    EventKind
	Last    bool
	Layout  *guest.Layout
	Mode    SyncMode
	Block   *guest.Block
	Offset  uint64
	Data    []byte
	Command Command
}
