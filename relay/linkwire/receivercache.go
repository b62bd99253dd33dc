package linkwire

import (
	"fmt"
	"sync"
)

// ReceiverCache holds pages that one migration has received, in the slots that the
// other side's SenderCache names. All connections of the migration may use it at once.
type ReceiverCache struct {
	pageSize int

	mu       sync.Mutex
	versions []uint64 // 0 for an empty slot
	pages    slotMemory
}

// NewReceiverCache returns a cache of so many bytes of pages, or nil if that is less
// than one page. It takes memory as slots are filled.
func NewReceiverCache(size int64, pageSize int) *ReceiverCache {
	n := slotsOf(size, pageSize)
	if n == 0 {
		return nil
	}
	return &ReceiverCache{pageSize: pageSize, versions: make([]uint64, n), pages: newSlotMemory(n, pageSize)}
}

// PageSize returns the size of the cache's pages in bytes.
func (c *ReceiverCache) PageSize() int { return c.pageSize }

// load copies the page of a slot.
func (c *ReceiverCache) load(s, version uint64, page []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s >= uint64(len(c.versions)) || version == 0 || c.versions[s] != version {
		return fmt.Errorf("%w: slot %d does not hold version %d", ErrCacheMismatch, s, version)
	}
	copy(page, c.pages.at(int(s)))
	return nil
}

// store fills a slot.
func (c *ReceiverCache) store(s, version uint64, page []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s >= uint64(len(c.versions)) || version <= c.versions[s] {
		return fmt.Errorf("%w: version %d cannot be put into slot %d of %d", ErrCacheMismatch, version, s, len(c.versions))
	}
	c.versions[s] = version
	copy(c.pages.at(int(s)), page)
	return nil
}

// slotMemory is the memory of a cache's slots, allocated in chunks as they are used.
type slotMemory struct {
	pageSize int
	chunks   [][]byte
}

// chunkSlots is the number of slots in a chunk.
const chunkSlots = 64

func newSlotMemory(slots, pageSize int) slotMemory {
	return slotMemory{pageSize, make([][]byte, (slots+chunkSlots-1)/chunkSlots)}
}

// at returns the memory of a slot. The first call for a chunk allocates it, under the
// cache's lock.
func (m *slotMemory) at(s int) []byte {
	chunk := &m.chunks[s/chunkSlots]
	if *chunk == nil {
		*chunk = make([]byte, chunkSlots*m.pageSize)
	}
	i := s % chunkSlots
	return (*chunk)[i*m.pageSize : (i+1)*m.pageSize]
}
