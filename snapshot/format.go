package snapshot

import (
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
)

var (
	// ErrCorrupt is wrapped by every error about bytes that are not what the
	// format says or the digests promise.
	ErrCorrupt = errors.New("snapshot is corrupt")
	// ErrIncomplete is wrapped when there is no manifest: the save did not
	// get to its end.
	ErrIncomplete = errors.New("no complete snapshot")
	// ErrExists is wrapped when the bucket for a new snapshot is not empty.
	ErrExists = errors.New("the destination is not empty")
	// ErrTooLarge is wrapped when a snapshot gets larger than
	// [Options].MaxSize.
	ErrTooLarge = errors.New("snapshot is too large")
)

func corrupt(object, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrCorrupt, object, fmt.Sprintf(format, args...))
}

// Store is how pages are kept.
type Store string

// The kinds of store. Fast and dense are both deflate, a page at a time; zstd
// is a frame an extent.
const (
	StoreFast  Store = "fast"
	StoreDense Store = "dense"
	StoreZstd  Store = "zstd"
	StoreRaw   Store = "raw"
)

// codec is how the pages of one extent are encoded.
type codec uint8

const (
	codecRaw     codec = 0 // pages end to end
	codecDeflate codec = 1 // a qpl packet's payload
	codecZstd    codec = 2 // one zstd frame of the pages end to end
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
	return 0, fmt.Errorf("snapshot: unknown store %q (fast, dense, zstd or raw)", string(s))
}

// mode is how the store deflates, if it does.
func (s Store) mode() deflate.Mode {
	if s == StoreDense {
		return deflate.Dense
	}
	return deflate.Fast
}

// extentPages returns how many pages an extent holds at most.
func extentPages(pageSize int) int { return min(128, guest.PacketPages(pageSize)) }

// maxExtentLen bounds the bytes of an extent: raw pages with their lengths,
// and room for a zstd frame that did not shrink.
func maxExtentLen(pageSize int) int {
	n := extentPages(pageSize)
	return n*pageSize + 4*n + n*pageSize/128 + 64
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// location is where a page is kept: extent number + 1 in the upper bits, its
// slot in the extent in the lowest eight. 0 is a page that is not kept: zero.
type location uint64

func at(extent uint64, slot int) location { return location((extent+1)<<8 | uint64(slot)) }

func (l location) extent() uint64 { return uint64(l>>8) - 1 }
func (l location) slot() int      { return int(l & 0xff) }

// maxExtents bounds the extents of a snapshot: what a location can say.
const maxExtents = 1 << 40

// extent is one line of the extent table.
type extent struct {
	object uint32 // index among the manifest's page objects
	block  uint16
	codec  codec
	count  uint8 // pages
	offset uint64
	length uint32
	crc    uint32
}
