package vmstate

import "github.com/vmferry/vmferry/guest"

// EventKind is the kind of an Event.
type EventKind uint8

const (
	// EventSetup begins the first RAM section. Layout has the RAM blocks, Mode the
	// sync mode. It occurs once, before any page. An EventSync follows.
	EventSetup EventKind = iota + 1
	// EventSection begins a section of pages; Last is set for the last one.
	EventSection
	// EventSectionEnd ends a section of either kind.
	EventSectionEnd
	// EventSync is a sync point: every multifd channel carries one SYNC.
	EventSync
	// EventZero is a zero page; Offset is its byte offset in Block.
	EventZero
	// EventPage is a page with the content Data; Offset is its byte offset in Block.
	EventPage
	// EventCommand is a command, in Command.
	EventCommand
	// EventDevices has the next bytes of device state in Data, in pieces as they
	// arrive, from the first device section on. The stream carries no length for
	// it: see FindEnd.
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
