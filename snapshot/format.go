package snapshot

import (
	"errors"
	"fmt"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
)

var (
	// ErrCorrupt is wrapped if data of a snapshot violate the format or do not
	// match a checksum or digest.
	ErrCorrupt = errors.New("snapshot: corrupt")
	// ErrIncomplete is wrapped if the bucket has no manifest: the save did not
	// complete.
	ErrIncomplete = errors.New("snapshot: incomplete")
	// ErrExists is wrapped if the bucket for a new snapshot is not empty.
	ErrExists = errors.New("snapshot: destination is not empty")
	// ErrTooLarge is wrapped if a snapshot exceeds [Options].MaxSize.
	ErrTooLarge = errors.New("snapshot: too large")
)

func corrupt(object, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrCorrupt, object, fmt.Sprintf(format, args...))
}

// Store is the encoding of pages that the writer uses.
type Store string

// The encodings of pages. Fast and dense are raw deflate (RFC 1951), one stream for each
// page. Zstd is one frame (RFC 8878) for each extent.
const (
	StoreFast  Store = "fast"
	StoreDense Store = "dense"
	StoreZstd  Store = "zstd"
	StoreRaw   Store = "raw"
)

// codec is how the pages of one extent are encoded.
type codec uint8

const (
	codecRaw     codec = 0 // the pages one after another
	codecDeflate codec = 1 // the payload of a qpl packet
	codecZstd    codec = 2 // one zstd frame of the pages one after another

	// codecEncrypted is set in the codec of an extent that is encrypted. It is reserved.
	codecEncrypted codec = 0x80
)

func (s Store) codec() (codec, error) {
	switch s {
	case StoreFast, StoreDense:
		return codecDeflate, nil
	case StoreZstd:
		return codecZstd, nil
	case StoreRaw:
		return codecRaw, nil
	}
	return 0, fmt.Errorf("snapshot: unknown store %q (want fast, dense, zstd or raw)", string(s))
}

// mode returns the deflate mode of StoreFast and StoreDense.
func (s Store) mode() deflate.Mode {
	if s == StoreDense {
		return deflate.Dense
	}
	return deflate.Fast
}

// extentPages returns the largest number of pages of an extent.
func extentPages(pageSize int) int { return min(128, guest.PacketPages(pageSize)) }

// maxExtentLen returns the largest size of an extent in bytes. It covers raw pages with
// their lengths, and a zstd frame of pages that do not shrink.
func maxExtentLen(pageSize int) int {
	n := extentPages(pageSize)
	return n*pageSize + 4*n + n*pageSize/128 + 64
}

// location is the position of a page: extent number + 1 in the upper 56 bits, slot in
// the lower 8 bits. Location 0 is a zero page, which is not stored.
type location uint64

func newLocation(extent uint64, slot int) location { return location((extent+1)<<8 | uint64(slot)) }

func (l location) extent() uint64 { return uint64(l>>8) - 1 }
func (l location) slot() int      { return int(l & 0xff) }

// maxExtents is the largest number of extents of a snapshot, so that a location fits
// into the 48 bits of a packed entry.
const maxExtents = 1 << 40

// extent is one line of the extent table.
type extent struct {
	object uint32 // index in the manifest's list of page objects
	block  uint16
	codec  codec
	count  uint8 // number of pages
	offset uint64
	length uint32
	key    uint16 // 0, because this package encrypts nothing
	sum    sum    // of the bytes of the extent
}
