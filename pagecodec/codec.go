package pagecodec

import (
	"fmt"

	"github.com/vmferry/vmferry/guest"
)

// Encoder deflates batches of pages. Batches are finished in the order in which
// they were begun. At most two are in progress: begun and not released.
type Encoder interface {
	// Overlaps reports whether it gains time to begin a batch before the one
	// before is finished.
	Overlaps() bool
	// Begin starts on pages, of the encoder's page size each.
	Begin(pages [][]byte) error
	// Finish completes the oldest batch that was begun and is not finished, and
	// releases the one finished before.
	Finish() error
	// Stream returns page i of the batch that was finished last: a raw deflate
	// stream, or the page itself if it does not shrink. A stream is put into room,
	// which has at least one byte less than a page, or stays in a buffer of the
	// encoder's own until Release. Each page is asked for once.
	Stream(i int, room []byte) []byte
	// Release gives back the buffers of the batch that was finished last.
	Release()
	// Close ends the use of the device, and abandons batches in progress. A
	// second call does nothing.
	Close()
}

// Decoder inflates batches of pages. A batch holds the streams of its pages end to
// end, lengths[i] bytes each; a length of exactly the page size is the page itself.
type Decoder interface {
	// Overlaps reports whether it gains time to begin a batch before the one
	// before is finished. At most two batches may be begun and not finished. Their
	// pages are filled in any order, so they must not have pages in common.
	Overlaps() bool
	// Buffer returns prefaulted memory for data, which a device can read in
	// place. It is valid until Close.
	Buffer(size int) ([]byte, error)
	// Begin starts to fill pages from data. Begin or Finish returns a *PageError
	// if a stream does not give exactly its page.
	Begin(lengths []uint32, data []byte, pages [][]byte) error
	// Finish returns when the pages of the oldest batch in progress are filled.
	// Without one it does nothing.
	Finish() error
	// Check inflates a batch only to see that every stream gives a page.
	Check(lengths []uint32, data []byte) error
	// Close ends the use of the device, and abandons batches in progress. A
	// second call does nothing.
	Close()
}

// PageError reports a stream that does not give exactly a page.
type PageError struct {
	Page int // index in the batch
	Err  error
}

func (e *PageError) Error() string { return fmt.Sprintf("page %d of the batch: %v", e.Page, e.Err) }

func (e *PageError) Unwrap() error { return e.Err }

// checkPages checks that a batch has whole pages and no more than a packet of them.
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
		return fmt.Errorf("pagecodec: the streams have %d bytes in total, but the data has %d", sum, len(data))
	}
	return nil
}
