package guest

import "context"

// Form is how the pages of a batch are encoded.
type Form uint8

const (
	// Raw means that each page is page-size bytes.
	Raw Form = iota
	// Deflated means that each page is one raw deflate stream (RFC 1951), or,
	// if it has exactly page-size bytes, the page itself. A packet of QEMU's
	// qpl method uses the same form.
	Deflated
)

// Batch holds pages of one block, at most a packet of them (Layout.PacketPages),
// on their way from a source to a method. A batch is reused, so a source can keep
// its buffers in it.
type Batch struct {
	Block *Block
	// Normal and Zero are the offsets in bytes of the pages with data and of the
	// zero pages in the block. Data[i] is the page at Normal[i] in the form Form.
	// Data is valid until the batch is filled again. For live memory Data is
	// the memory itself.
	Normal, Zero []uint64
	Data         [][]byte
	Form         Form

	// TakeDeflated reports that the method can send deflated pages unchanged. A
	// source may ignore it.
	TakeDeflated bool

	// Scratch belongs to the source that fills the batch.
	Scratch any
}

// Reset empties the batch and keeps its buffers.
func (b *Batch) Reset() {
	b.Block, b.Form = nil, Raw
	b.Normal, b.Zero, b.Data = b.Normal[:0], b.Zero[:0], b.Data[:0]
}

// Source yields the pages of one round.
type Source interface {
	// Layout returns the layout of the pages. It does not change.
	Layout() *Layout
	// Next fills b with the next pages, all of one block. It returns io.EOF at
	// the end of the round, and the context's error when ctx ends. Several
	// goroutines may call Next, each with its own batch. Next yields no page
	// twice.
	Next(ctx context.Context, b *Batch) error
}

// Sink stores pages. The last write of a page wins. The caller orders the writes
// to one page.
type Sink interface {
	// Setup prepares the sink for the memory of the layout. The caller calls it
	// once, before it opens a lane.
	Setup(*Layout) error
	// Lane opens a lane for one goroutine. Several lanes may be open.
	Lane() (Lane, error)
}

// Lane writes pages into a sink for one goroutine.
type Lane interface {
	// Pages returns one buffer of page-size bytes for each offset of b. The
	// caller fills the buffers and calls Commit. The buffers and the slice are
	// valid until Commit.
	Pages(b *Block, offsets []uint64) ([][]byte, error)
	// Commit stores the content of the buffers of the last Pages.
	Commit() error
	// Zero stores zero pages at the offsets of b.
	Zero(b *Block, offsets []uint64) error
	// Close stores the pages that are still buffered and ends the lane.
	Close() error
}

// DeflatedLane is a lane that can store deflated pages unchanged.
type DeflatedLane interface {
	Lane
	// PutDeflated stores the pages at the offsets of b. data holds the pages
	// one after another in the form Deflated; page i has lengths[i] bytes. The
	// caller has checked that each inflates to a whole page. PutDeflated does
	// not retain data.
	PutDeflated(b *Block, offsets []uint64, lengths []uint32, data []byte) error
	// KeepsDeflated reports whether the caller should use PutDeflated for the
	// next pages.
	KeepsDeflated() bool
}

// StableLane is a lane whose buffers of Pages are the memory itself. The caller may
// fill them after Commit, until the next sync point.
type StableLane interface {
	Lane
	// Stable reports whether the buffers stay valid after Commit.
	Stable() bool
}
