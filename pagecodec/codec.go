package pagecodec

import (
	"fmt"

	"github.com/vmferry/vmferry/guest"
)

// Encoder deflates batches of pages. Batches are finished in the order in which
// they were begun. At most two are in progress: begun and not released.
type Encoder interface {
	// Overlaps reports whether beginning a batch before the previous one is
	// finished saves time.
	Overlaps() bool
	// Begin begins a batch of pages. Each page has the encoder's page size.
	Begin(pages [][]byte) error
	// Finish waits for the oldest unfinished batch, and releases the batch that
	// was finished before.
	Finish() error
	// Stream returns page i of the last finished batch: a raw deflate stream
	// (RFC 1951), or the page itself if it does not shrink. The stream is in dst,
	// which must have at least page-size-1 bytes, or in a buffer of the encoder
	// that is valid until Release. The caller calls Stream once for each page.
	Stream(i int, dst []byte) []byte
	// Release releases the buffers of the last finished batch.
	Release()
	// Close closes the encoder and abandons batches in progress. A second call
	// does nothing.
	Close()
}

// Decoder inflates batches of pages. A batch holds the streams of its pages one after
// another; stream i has lengths[i] bytes. A stream of exactly page-size bytes is the page
// itself.
type Decoder interface {
	// Overlaps reports whether beginning a batch before the previous one is
	// finished saves time. At most two batches may be unfinished. Their pages are
	// filled in any order, so the batches must not share pages.
	Overlaps() bool
	// Buffer returns size bytes of prefaulted memory for data, which a device can
	// read in place. The memory is valid until Close.
	Buffer(size int) ([]byte, error)
	// Begin begins to inflate data into pages. Begin or Finish returns a
	// *PageError if a stream does not inflate to exactly one page.
	Begin(lengths []uint32, data []byte, pages [][]byte) error
	// Finish waits until the pages of the oldest unfinished batch are filled. It
	// does nothing if there is none.
	Finish() error
	// Check verifies that each stream of a batch inflates to a page, and discards
	// the pages.
	Check(lengths []uint32, data []byte) error
	// Close closes the decoder and abandons batches in progress. A second call
	// does nothing.
	Close()
}

// PageError reports a stream that does not inflate to exactly one page.
type PageError struct {
	Page int // index of the page in the batch
	Err  error
}

func (e *PageError) Error() string { return fmt.Sprintf("page %d of the batch: %v", e.Page, e.Err) }

func (e *PageError) Unwrap() error { return e.Err }

// checkPages checks that a batch has at most a packet of pages of the right size.
func checkPages(pages [][]byte, pageSize int) error {
	if most := guest.PacketPages(pageSize); len(pages) > most {
		return fmt.Errorf("pagecodec: %d pages in a batch (at most %d)", len(pages), most)
	}
	for i, page := range pages {
		if len(page) != pageSize {
			return fmt.Errorf("pagecodec: page %d has %d bytes (want %d)", i, len(page), pageSize)
		}
	}
	return nil
}

// checkBatch checks that a batch to inflate has a page for every stream.
func checkBatch(lengths []uint32, data []byte, pages [][]byte, pageSize int) error {
	if len(pages) != len(lengths) {
		return fmt.Errorf("pagecodec: %d streams for %d pages", len(lengths), len(pages))
	}
	if err := checkPages(pages, pageSize); err != nil {
		return err
	}
	return checkStreams(lengths, data, pageSize)
}

// checkStreams checks the lengths of a batch before they index data.
func checkStreams(lengths []uint32, data []byte, pageSize int) error {
	if most := guest.PacketPages(pageSize); len(lengths) > most {
		return fmt.Errorf("pagecodec: %d streams in a batch (at most %d)", len(lengths), most)
	}
	sum := 0
	for i, n := range lengths {
		if n == 0 || n > uint32(pageSize) {
			return fmt.Errorf("pagecodec: stream %d has %d bytes (want 1 to %d)", i, n, pageSize)
		}
		sum += int(n)
	}
	if sum != len(data) {
		return fmt.Errorf("pagecodec: the streams have %d bytes in total, but data has %d bytes", sum, len(data))
	}
	return nil
}
