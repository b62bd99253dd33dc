package guest

import "context"

// Form is how the pages of a batch are encoded.
type Form uint8

const (
	// Raw pages are page size bytes each.
	Raw Form = iota
	// Deflated pages are one raw deflate stream each, or, at exactly page
	// size bytes, the page itself: what a qpl packet carries.
	Deflated
)

// Batch is up to a packet of pages of one block on their way from a source to
// a method. A batch is reused: a source keeps its buffers in it.
type Batch struct {
	Block *Block
	// Normal and Zero are the offsets of the pages in the block. Data[i] is
	// the page at Normal[i] in the given form. It is valid until the batch is
	// filled again; for live memory it is the memory itself.
	Normal, Zero []uint64
	Data         [][]byte
	Form         Form

	// TakeDeflated says that the carrier can use deflated pages as they are.
	// A source that has none may ignore it.
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
	Layout() *Layout
	// Next fills b with more pages, of one block, or returns io.EOF when the
	// round is over. Several goroutines call it, each with a batch of its
	// own; no page is yielded twice.
	Next(ctx context.Context, b *Batch) error
}

// Sink takes pages in. The newest write of a page is the one that counts; the
// caller keeps writes to one page in order.
type Sink interface {
	// Setup is called once, with the memory that will come, before any lane
	// is opened.
	Setup(*Layout) error
	// Lane opens a way in for one goroutine.
	Lane() (Lane, error)
}

// Lane is one goroutine's way into a sink.
type Lane interface {
	// Pages returns where the pages at the offsets of b are to be put, page
	// size bytes each. The memory and the slice are valid until Commit.
	Pages(b *Block, offsets []uint64) ([][]byte, error)
	// Commit keeps the pages that were put where Pages said.
	Commit() error
	// Zero makes the pages at the offsets zero.
	Zero(b *Block, offsets []uint64) error
	// Close keeps what is still buffered and ends the lane.
	Close() error
}

// DeflatedLane is a lane that can keep deflated pages as they came.
type DeflatedLane interface {
	Lane
	// PutDeflated keeps the pages at the offsets of b. data is the pages end
	// to end in the form Deflated, lengths[i] bytes each; they were checked
	// to inflate to whole pages. The sink does not hold on to data.
	PutDeflated(b *Block, offsets []uint64, lengths []uint32, data []byte) error
	// KeepsDeflated says whether the lane wants pages that way now.
	KeepsDeflated() bool
}

// StableLane is a lane whose pages stay where Pages said after Commit, so that
// they may be filled later: before the next sync point.
type StableLane interface {
	Lane
	Stable() bool
}
